// Light or dark, before anything is painted: the system's choice unless the user made one. A classic script, as modules
// run too late for that.
"use strict";
{
  const stored = () => {
    try {
      return localStorage.getItem("flamingo.theme");
    } catch {
      return null; // storage is forbidden: the system's choice then
    }
  };
  const theme = stored();
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
