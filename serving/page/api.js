// Client of the service: OpenAI's chat protocol, streamed, and /v1/rewrite. Failures become a `ServiceError` with the
// server's message; stopping by the user is an `AbortError`, as in fetch.

export class ServiceError extends Error {
  // status: HTTP status, 0 without a response; retryAfter: seconds, or null;
  // lost: the connection broke after the answer had begun.
  constructor(message, { status = 0, code = null, retryAfter = null, lost = false } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter, lost });
  }
}

// Chunks of an answer: { text, finish, usage }, each field only if present.
export async function* chat(body, key, signal) {
  const options = { include_usage: true };
  const answer = await post("v1/chat/completions", { ...body, stream: true, stream_options: options }, key, signal);
  let done = false;
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const chunk = parsed(data);
    if (chunk.error) throw new ServiceError(chunk.error.message ?? "the server failed", { status: 500, code: chunk.error.code });
    const choice = chunk.choices?.[0];
    yield { text: choice?.delta?.content ?? "", finish: choice?.finish_reason ?? null, usage: chunk.usage ?? null };
  }
  if (!done) throw lost();
}

// The response of /v1/rewrite.
export async function rewrite(body, key, signal) {
  const answer = await post("v1/rewrite", body, key, signal);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost();
  }
}

// What the page must know of the service before the first request.
export async function settings() {
  const answer = await fetch("page/settings.json");
  if (!answer.ok) throw await refused(answer);
  return answer.json();
}

async function post(route, body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(route, { method: "POST", headers, body: JSON.stringify(body), signal, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The server cannot be reached. Is it still running, and are you connected?");
  }
  if (!answer.ok) throw await refused(answer);
  return answer;
}

async function refused(answer) {
  const body = await answer.json().catch(() => null); // a proxy in front may answer in HTML
  const seconds = Number.parseFloat(answer.headers.get("Retry-After") ?? "");
  return new ServiceError(body?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}`.trim(), {
    status: answer.status,
    code: body?.error?.code ?? null,
    retryAfter: Number.isFinite(seconds) ? Math.max(0, seconds) : null,
  });
}

const lost = () => new ServiceError("The connection was lost before the answer was complete.", { lost: true });

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServiceError("The server sent an invalid response.", { lost: true });
  }
}

// The `data` of each server-sent event. Network blocks may end anywhere, even within a character.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw lost();
      }
      if (piece.done) return;
      const lines = (rest + piece.value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // already broken
  }
}
