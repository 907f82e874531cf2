// Client of the votes' server. Failures become a `VoteError` with the server's message.

const TOKEN = "flamingo.votes.token";
const PATIENCE = 15_000; // milliseconds until a request without an answer counts as lost

export class VoteError extends Error {
  // status: HTTP status, 0 without a response; the request may be sent again unless `final`.
  constructor(message, status = 0) {
    super(message);
    this.status = status;
    this.final = status >= 400 && status < 500 && status !== 408 && status !== 429;
  }
}

let token = "";

// Takes the token from the address, where the server's link has it, and hides it there; else this tab's own.
export function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    history.replaceState(null, "", location.pathname + location.search);
    setToken(found);
    return;
  }
  try {
    token = sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    token = ""; // storage is blocked: the page asks for it
  }
}

export function setToken(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // storage is blocked: it lasts until the next reload
  }
}

export const hasToken = () => token !== "";

// { instruction, keys }: what the page shows before anybody has a token.
export async function settings() {
  return (await sent("page/settings.json", {})).json();
}

// What the voter sees next; `route` is "next", "undo" or "reopen".
export const ask = (route, voter) => post(`v1/votes/${route}`, { voter });

export const vote = (ballot) => post("v1/votes", ballot);

async function post(route, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await sent(route, { method: "POST", headers, body: JSON.stringify(body) });
  return answer.json().catch(() => {
    throw new VoteError("The connection was lost.");
  });
}

async function sent(route, options) {
  let answer;
  try {
    answer = await fetch(route, { ...options, credentials: "omit", signal: AbortSignal.timeout(PATIENCE) });
  } catch {
    throw new VoteError("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null); // a proxy in front may answer in HTML
  throw new VoteError(said?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}`.trim(), answer.status);
}
