// The button for light or dark; theme.js applies the choice before the first paint.

import { announce, byId } from "./dom.js";

export function startTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("flamingo.theme", theme);
    } catch {
      announce("The browser does not allow the page to remember this."); // storage is blocked
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}
