// The settings dialog, and what it holds: how to ask, and the key. All of it ends with the tab.

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

// Opens the dialog; `then` is called once the user is done with it, not when it is left.
export function open(field = null, then = null) {
  const form = byId("settings-form");
  for (const name of FIELDS) form.elements[name].value = values[name] ?? "";
  whenClosed = then;
  byId("settings").showModal();
  if (field) form.elements[field].focus();
}

export const key = () => values.key ?? "";
export const system = () => values.system ?? "";

// What a chat request says of how to answer; what is left open is left to the server.
export function asked() {
  const body = {};
  for (const name of ["temperature", "max_tokens", "seed"]) {
    const number = Number.parseFloat(values[name] ?? "");
    if (Number.isFinite(number)) body[name] = name === "temperature" ? number : Math.round(number);
  }
  return body;
}
