/** The mesh as the server last told it: members, each with its entries. */

import { isGone, stateOf, worst } from "./states.js";
import { naturally, shortName, shown } from "./text.js";

/** `tp0/2 pp1/4`: rank and size in each dimension that is split; tensor parallel always. */
export function rankLabel(layout) {
  if (layout === null || typeof layout !== "object") return "";
  const known = (value) => (Number.isInteger(value) ? String(value) : "?");
  const part = (name) => `${name}${known(layout[`${name}_rank`])}/${known(layout[`${name}_size`])}`;
  const split = ["pp", "ep"].filter((name) => layout[`${name}_size`] > 1);
  if (!Number.isInteger(layout.tp_size) && split.length === 0) return "";
  return ["tp", ...split].map(part).join(" ");
}

function rankOrder(layout) {
  if (layout === null || typeof layout !== "object") return [-1, -1, -1];
  return ["pp_rank", "tp_rank", "ep_rank"].map((name) => layout[name] ?? -1);
}

const sum = (values) => values.reduce((one, other) => one + other, 0);

/** A member made of its entries: one, or one for each model that it holds. */
export function memberOf(entries) {
  const main = entries.find((entry) => entry.role === "target") ?? entries[0];
  const states = entries.map(stateOf);
  const state = worst(states);
  const loads = entries.filter((entry) => entry.state === "loading");
  const total = sum(loads.map((entry) => entry.total_bytes));
  const held = Math.min(total, sum(loads.map((entry) => entry.held_bytes)));
  const rank = rankLabel(main.layout);
  const live = !isGone(state);
  return {
    id: main.id,
    entries,
    main,
    state,
    live,
    host: main.host ?? "",
    model: main.model ?? "",
    shortModel: shortName(main.model ?? ""),
    rank,
    rankOrder: rankOrder(main.layout),
    loads: live && loads.length > 0,
    held,
    total,
    bytes: sum(entries.map((entry) => entry.bytes)),
    /** How full its tank is, 0 to 1. */
    level: levelOf(state, loads.length > 0, held, total, entries),
    rate: live ? sum(loads.map((entry) => entry.rate)) : 0,
    feeds: live ? loads.flatMap((entry) => entry.feeds) : [],
    awaits: live ? [...new Set(loads.flatMap((entry) => entry.awaits))] : [],
    readsStorage: live && loads.some((entry) => entry.reads_storage),
    serving: sum(entries.map((entry) => entry.sessions.serving)),
    pulling: sum(entries.map((entry) => entry.sessions.pulling)),
    haystack: entries
      .flatMap((entry) => [entry.id, entry.host, entry.model, entry.given, entry.role, entry.content])
      .concat(states, rank)
      .filter((text) => typeof text === "string")
      .map((text) => text.toLowerCase()),
  };
}

function levelOf(state, loads, held, total, entries) {
  if (loads) return total > 0 ? held / total : 0;
  return entries.some((entry) => entry.state !== null) ? 1 : 0;
}

/** Members by host or by model, as a person would look for them. */
export function orderOf(by) {
  const name = by === "model" ? (member) => member.model : (member) => member.host;
  const other = by === "model" ? (member) => member.host : (member) => member.model;
  return (one, two) =>
    naturally(name(one), name(two)) ||
    (by === "model" ? compareRanks(one, two) : 0) ||
    naturally(other(one), other(two)) ||
    compareRanks(one, two) ||
    naturally(one.id, two.id);
}

function compareRanks(one, two) {
  for (let place = 0; place < one.rankOrder.length; place += 1) {
    if (one.rankOrder[place] !== two.rankOrder[place]) {
      return one.rankOrder[place] - two.rankOrder[place];
    }
  }
  return 0;
}

function byId(entries) {
  const found = new Map();
  for (const entry of entries) {
    const known = found.get(entry.id);
    if (known === undefined) found.set(entry.id, [entry]);
    else known.push(entry);
  }
  return found;
}

export class MeshView {
  constructor() {
    this.name = "";
    /** @type {Map<string, ReturnType<typeof memberOf>>} */
    this.members = new Map();
    /** Grows whenever a member comes, goes, or stands elsewhere: the places must be found again. */
    this.shape = 0;
  }

  /** Take a whole document. */
  replace(document) {
    this.name = document.mesh;
    this.members = new Map();
    for (const [id, entries] of byId(document.members)) this.members.set(id, memberOf(entries));
    this.shape += 1;
  }

  /** Take what changed: entries of each changed member replace what it had, `gone` are forgotten. */
  change({ changed, gone }) {
    for (const [id, entries] of byId(changed)) {
      const before = this.members.get(id);
      const after = memberOf(entries);
      this.members.set(id, after);
      if (before === undefined || standsElsewhere(before, after)) this.shape += 1;
    }
    for (const id of gone) if (this.members.delete(id)) this.shape += 1;
  }

  /** How many members are in each state, the total rate, and how many transfers there are. */
  totals() {
    const states = new Map();
    let rate = 0;
    let transfers = 0;
    let reads = 0;
    for (const member of this.members.values()) {
      states.set(member.state, (states.get(member.state) ?? 0) + 1);
      rate += member.rate;
      transfers += member.feeds.length;
      if (member.readsStorage) reads += 1;
    }
    return { members: this.members.size, states, rate, transfers, reads };
  }
}

function standsElsewhere(one, other) {
  return (
    one.host !== other.host ||
    one.model !== other.model ||
    one.rank !== other.rank
  );
}

/** One line that says everything the map shows of a member. */
export function sentence(member, words) {
  const parts = [
    shown(member.shortModel) || "no model",
    member.rank,
    words.state,
    member.loads && member.total > 0 ? words.progress : "",
    `host ${shown(member.host)}`,
    shown(member.id),
  ];
  return parts.filter(Boolean).join(", ");
}
