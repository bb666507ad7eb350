/** Questions to the server that is behind the page. */

/** The server said no, or said nothing; `status` is 0 for the latter. */
export class ApiError extends Error {
  constructor(path, status, said) {
    super(status === 0 ? `${path}: the server does not answer` : `${path}: ${said || status}`);
    this.status = status;
  }
}

/** Numbers beyond the 53 bits of a double, such as generations, as they were written. */
function exactly(_key, value, context) {
  const rounded = typeof value === "number" && !Number.isSafeInteger(value);
  return rounded && Number.isInteger(value) && context !== undefined
    ? BigInt(context.source).toString()
    : value;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    throw new ApiError(path, 0, String(error));
  }
  const text = await response.text();
  if (!response.ok) throw new ApiError(path, response.status, text.slice(0, 300));
  return text;
}

/** The last lines of the time line, oldest first. */
export async function happened() {
  return JSON.parse(await ask("/api/happened")).happened;
}

/** Everything that a member publishes. */
export async function member(id) {
  return JSON.parse(await ask(`/api/members/${encodeURIComponent(id)}`), exactly);
}

/** Whether `source` would feed `replica`: an answer for each model of the replica. */
export async function match(replica, source) {
  const query = new URLSearchParams({ replica, source });
  return JSON.parse(await ask(`/api/match?${query}`)).workers;
}

/** Play, pause, seek. */
export async function replay(wish) {
  await ask("/api/replay", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(wish),
  });
}

/**
 * Whether the server would send its events: `{status, said}`; status 0 when it does not answer, and
 * what it said where it refuses.
 */
export async function reach(timeout_ms) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeout_ms);
  try {
    const response = await fetch("/api/events", { cache: "no-store", signal: abort.signal });
    const said = response.ok ? "" : (await response.text()).slice(0, 300).trim();
    return { status: response.status, said };
  } catch {
    return { status: 0, said: "" };
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}
