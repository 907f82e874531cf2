// The settings dialog: decoding parameters and the API key, kept as long as the tab.

import { byId } from "./dom.js";
import { loadSettings, saveSettings } from "./store.js";

const FIELDS = ["key", "system", "temperature", "max_tokens", "seed"];
let values = {};
let whenClosed = null;

export function startSettings() {
  values = loadSettings();
  const dialog = byId("settings");
  const form = byId("settings-form");
  byId("open-settings").addEventListener("click", () => open());
  byId("close-settings").addEventListener("click", () => dialog.close());
  byId("reset-settings").addEventListener("click", () => FIELDS.forEach((name) => (form.elements[name].value = "")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    values = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value.trim()]));
    saveSettings(values);
    const then = whenClosed;
    whenClosed = null;
    dialog.close();
    then?.();
  });
  dialog.addEventListener("close", () => (whenClosed = null));
}

// Opens the dialog; `then` is called when the user confirms, not when they close it.
export function open(field = null, then = null) {
  const form = byId("settings-form");
  for (const name of FIELDS) form.elements[name].value = values[name] ?? "";
  whenClosed = then;
  byId("settings").showModal();
  if (field) form.elements[field].focus();
}

export const key = () => values.key ?? "";
export const system = () => values.system ?? "";

// The settings as fields of a chat request; empty ones are left to the server.
export function asked() {
  const body = {};
  for (const name of ["temperature", "max_tokens", "seed"]) {
    const number = Number.parseFloat(values[name] ?? "");
    if (Number.isFinite(number)) body[name] = name === "temperature" ? number : Math.round(number);
  }
  return body;
}
