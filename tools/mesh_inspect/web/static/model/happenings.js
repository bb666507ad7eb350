/** The time line: what happened, in groups that can be filtered, and how much of it when. */

/** Lines that are kept, as many as the server keeps. */
export const MAX_LINES = 500;

const GROUP_OF = new Map([
  ["joined", "joins"],
  ["restarted", "joins"],
  ["left", "joins"],
  ["forgotten", "joins"],
  ["died", "deaths"],
  ["stalled", "deaths"],
  ["suspect", "deaths"],
  ["back", "deaths"],
  ["accused", "deaths"],
  ["unavailable", "deaths"],
  ["loading", "loads"],
  ["reading", "loads"],
  ["ready", "loads"],
  ["dropped", "loads"],
]);

/** The group of a kind: `joins`, `deaths`, `loads`, or `others` for what later servers tell. */
export function groupOf(kind) {
  return GROUP_OF.get(kind) ?? "others";
}

function keyOf({ at, kind, id, text }) {
  return JSON.stringify([at, kind, id, text]);
}

export class TimeLine {
  constructor() {
    /** Oldest first. */
    this.lines = [];
  }

  /** Take all lines that the server has, and keep what it told while it was asked for them. */
  replace(lines, meanwhile = []) {
    const known = new Set(lines.map(keyOf));
    const later = meanwhile.filter((line) => !known.has(keyOf(line)));
    this.lines = [...lines, ...later].slice(-MAX_LINES);
  }

  add(line) {
    this.lines.push(line);
    if (this.lines.length > MAX_LINES) this.lines.splice(0, this.lines.length - MAX_LINES);
  }

  /** Lines of these groups (none: all), newest first. */
  of(groups) {
    const kept =
      groups.size === 0 ? this.lines : this.lines.filter((line) => groups.has(groupOf(line.kind)));
    return kept.slice().reverse();
  }
}

/**
 * How many lines of each group fall into each of `slots` equal parts of `from`..`to` (seconds).
 * A list of `{joins, deaths, loads, others}`.
 */
export function histogram(lines, from, to, slots) {
  const counts = Array.from({ length: slots }, () => ({ joins: 0, deaths: 0, loads: 0, others: 0 }));
  const width = (to - from) / slots;
  if (!(width > 0)) return counts;
  for (const line of lines) {
    const slot = Math.floor((line.at - from) / width);
    if (slot >= 0 && slot < slots) counts[slot][groupOf(line.kind)] += 1;
    else if (line.at === to) counts[slots - 1][groupOf(line.kind)] += 1;
  }
  return counts;
}

/** A sentence or two about many lines, for who hears the page instead of seeing it. */
export function summary(lines) {
  if (lines.length <= 2) return lines.map((line) => `${line.id} ${line.text}`).join(". ");
  const counts = new Map();
  for (const line of lines) counts.set(line.kind, (counts.get(line.kind) ?? 0) + 1);
  return [...counts].map(([kind, many]) => `${many} ${kind}`).join(", ");
}
