// Entry point: tabs, dropping and pasting.

import * as api from "./api.js";
import { startChat } from "./chat.js";
import { announce, byId } from "./dom.js";
import { filesOf } from "./pictures.js";
import { startRewriting } from "./rewriting.js";
import { startSettings } from "./settings.js";
import { startTheme } from "./theme_button.js";

let service = { chat: "clever-flamingo", rewriter: "polite-flamingo", keys: false, images: 16, text_characters: 100_000, thresholds: {} };
const known = () => service;

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const select = (tab, focus) => {
    for (const one of tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      byId(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    const name = tab.id.replace("tab-", "");
    byId("new-chat").hidden = name !== "chat";
    document.title = name === "chat" ? "Clever Flamingo" : "Rewriting · Polite Flamingo";
    history.replaceState(null, "", name === "chat" ? location.pathname : `#${name}`);
    if (focus) tab.focus();
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab, false));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(tabs[(to + tabs.length) % tabs.length], true);
    });
  });
  const fromAddress = () => select(byId(`tab-${location.hash.slice(1)}`) ?? tabs[0], false);
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
}

// Pictures dropped or pasted anywhere go to the open panel.
function startGifts(panels) {
  const open = () => (byId("panel-chat").hidden ? panels.rewriting : panels.chat);
  const withFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
  const over = byId("drop");
  let depth = 0; // nested elements under the pointer
  const leave = () => {
    depth = 0;
    over.hidden = true;
  };
  document.addEventListener("dragenter", (event) => {
    if (!withFiles(event)) return;
    depth += 1;
    over.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (withFiles(event) && --depth <= 0) leave();
  });
  document.addEventListener("dragover", (event) => {
    if (withFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault(); // else the browser would open the picture instead of this page
    leave();
    open().add(filesOf(event.dataTransfer));
    open().focus();
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData).filter((file) => file.type.startsWith("image/"));
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    open().add(files);
  });
}

startTheme();
startSettings();
const panels = { chat: startChat(known), rewriting: startRewriting(known) };
startTabs();
startGifts(panels);
if (matchMedia("(pointer: fine)").matches && !byId("panel-chat").hidden) panels.chat.focus();
try {
  service = await api.settings();
} catch (error) {
  announce(error.message); // the defaults above will do, and a request will show what is wrong
}
