// Light or dark, set before the first paint: the user's choice, else the system's. A classic script, because modules run
// too late.
"use strict";
{
  const stored = () => {
    try {
      return localStorage.getItem("flamingo.theme");
    } catch {
      return null; // storage is blocked: use the system's choice
    }
  };
  const theme = stored();
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
