/**
 * The one word that matters most about a member, what it means, and in which order words are listed.
 * The rules are those of the table that `mesh-inspect list` prints.
 */

/** Every word, the good news first. `wrong`: somebody should look. */
export const STATES = new Map([
  ["ready", { meaning: "may be asked for its weights", wrong: false }],
  ["loading", { meaning: "gets its weights now", wrong: false }],
  ["alive", { meaning: "a member that holds no weights yet", wrong: false }],
  ["unavailable", { meaning: "holds weights that it cannot hand out", wrong: true }],
  ["accused", { meaning: "another member says that it sent wrong bytes", wrong: true }],
  ["stalled", { meaning: "its process is silent, its kernel is not", wrong: true }],
  ["suspect", { meaning: "does not answer, and may still refute that", wrong: true }],
  ["dead", { meaning: "its process is gone", wrong: true }],
  ["left", { meaning: "left the mesh in order", wrong: false }],
]);

const ORDER = [...STATES.keys()];

/** The word for one entry of the document. */
export function stateOf(entry) {
  if (entry.status !== "alive") return STATES.has(entry.status) ? entry.status : "suspect";
  if (entry.state === null) return "alive";
  if (entry.accused_by > 0 && entry.state === "ready") return "accused";
  return STATES.has(entry.state) ? entry.state : "unavailable";
}

/** The word for a member with several models: what is wrong, then what is not finished. */
export function worst(states) {
  const weight = (state) => (STATES.get(state).wrong ? 100 : 0) + ORDER.indexOf(state);
  return states.reduce((one, other) => (weight(other) > weight(one) ? other : one));
}

/** Whether the member is no longer part of the mesh. */
export function isGone(state) {
  return state === "dead" || state === "left";
}
