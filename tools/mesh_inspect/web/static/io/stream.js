/** The server's events, for as long as the page is open: after each break another attempt. */

import { reach } from "./api.js";

const AGAIN_MS = 2000;

/** After so long without a word somebody asks whether the server is still there. */
const QUIET_MS = 8000;
const ANSWER_MS = 4000;

const EVENTS = ["mesh", "change", "happened", "silence", "replay"];

/**
 * Calls `handlers[event](data)` for each event, and `handlers.link(state, said)` when the state of
 * the connection changes: `open`; `lost`; `refused`, with what the server said.
 */
export function follow(handlers) {
  let source = null;
  let heard = Date.now();
  let state = "";

  const tell = (now, said = "") => {
    if (state !== now) {
      state = now;
      handlers.link(now, said);
    }
  };

  const ask = async () => {
    const { status, said } = await reach(ANSWER_MS);
    if (status === 200) return true;
    tell(status === 0 ? "lost" : "refused", said);
    return false;
  };

  const connect = () => {
    source?.close();
    source = new EventSource("/api/events");
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        heard = Date.now();
        tell("open");
        handlers[name](JSON.parse(event.data));
      });
    }
    source.addEventListener("open", () => {
      heard = Date.now();
      tell("open");
    });
    source.addEventListener("error", broken);
  };

  const broken = async () => {
    // The browser connects again by itself, except after an answer that is no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
    await ask();
  };

  // A server that hangs breaks no connection.
  const watch = async () => {
    if (Date.now() - heard > QUIET_MS && !document.hidden && (await ask())) {
      heard = Date.now();
      if (source.readyState === EventSource.OPEN) tell("open");
    }
    setTimeout(watch, AGAIN_MS);
  };

  connect();
  setTimeout(watch, AGAIN_MS);
}
