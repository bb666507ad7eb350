/**
 * What is looked for: words, all of which must be found in a member. `model:`, `host:` and `state:`
 * name where; `-word` asks for its absence.
 */

const FIELDS = new Set(["model", "host", "state", "rank", "id"]);

/** A query as terms: `{field, text, not}`. */
export function parse(query) {
  return query
    .toLowerCase()
    .split(/\s+/u)
    .filter((word) => word !== "" && word !== "-")
    .map((word) => {
      const not = word.startsWith("-");
      const bare = not ? word.slice(1) : word;
      const colon = bare.indexOf(":");
      const field = bare.slice(0, Math.max(0, colon));
      return FIELDS.has(field)
        ? { field, text: bare.slice(colon + 1), not }
        : { field: null, text: bare, not };
    });
}

function matches(term, member) {
  const places = term.field === null ? member.haystack : [place(term.field, member)];
  return places.some((text) => text.includes(term.text)) !== term.not;
}

function place(field, member) {
  return String(field === "rank" ? member.rank : member[field]).toLowerCase();
}

/** Whether a filter leaves anybody out. */
export function isNarrow(filter) {
  return filter.terms.length > 0 || filter.states.size > 0 || filter.model !== null;
}

/** Whether a member passes: the words, one of the states (none chosen: all), and the model. */
export function passes(filter, member) {
  return (
    (filter.states.size === 0 || filter.states.has(member.state)) &&
    (filter.model === null ||
      member.entries.some((entry) => (entry.model ?? "") === filter.model)) &&
    filter.terms.every((term) => matches(term, member))
  );
}
