// What outlives a reload of the tab: the conversation and the settings, in sessionStorage, which ends with the tab. The
// browser gives some five million characters; pictures that do not fit are forgotten, the oldest first, and say so.

const CONVERSATION = "flamingo.conversation";
const SETTINGS = "flamingo.settings";
const ROOM = 4_000_000; // characters

export function loadConversation() {
  const found = read(CONVERSATION);
  return Array.isArray(found) ? found : [];
}

// Keeps the messages, without as many of the oldest pictures as it takes.
export function saveConversation(messages) {
  const urls = messages.flatMap((message) => (message.pictures ?? []).map((picture) => picture.url?.length ?? 0));
  let over = JSON.stringify(messages).length - ROOM;
  let dropped = 0;
  while (over > 0 && dropped < urls.length) over -= urls[dropped++];
  for (; ; dropped++) {
    if (write(CONVERSATION, without(messages, dropped)) || dropped >= urls.length) return;
  }
}

export const loadSettings = () => read(SETTINGS) ?? {};
export const saveSettings = (settings) => write(SETTINGS, settings);

function without(messages, count) {
  return messages.map((message) => ({
    ...message,
    pictures: (message.pictures ?? []).map((picture) => (count-- > 0 ? { ...picture, url: null } : picture)),
  }));
}

function read(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null; // storage is forbidden, or holds what another version wrote
  }
}

// Whether it was kept. A full or forbidden storage costs what a reload would have brought back, and nothing else.
function write(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
