// What survives a reload: the conversation and the settings, in sessionStorage, which ends with the tab. Browsers allow
// about five million characters; pictures that do not fit are dropped, oldest first, and the page says so.

const CONVERSATION = "flamingo.conversation";
const SETTINGS = "flamingo.settings";
const ROOM = 4_000_000; // characters

export function loadConversation() {
  const found = read(CONVERSATION);
  return Array.isArray(found) ? found : [];
}

// Stores the messages, dropping as many of the oldest pictures as necessary.
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
    return null; // storage is blocked, or holds another version's data
  }
}

// Whether it was stored. With full or blocked storage, only reloading loses data.
function write(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
