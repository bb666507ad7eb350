/** Everything that one member publishes, beside the map. */

import * as api from "../io/api.js";
import { rankLabel } from "../model/mesh.js";
import { stateOf, STATES } from "../model/states.js";
import { shown, shownLines } from "../model/text.js";
import * as units from "../model/units.js";
import { byId, el, icon, keyed, mark, seldom, write } from "./dom.js";
import { GLYPHS } from "./glyphs.js";

/** Milliseconds between two questions about a member that keeps changing. */
const ASK_MS = 1500;

/** Those that a member feeds, listed one by one. */
const MAX_FED = 50;

export class Panel {
  /** `act.choose(id)` is called for a click on another member. */
  constructor(clock, act) {
    this.clock = clock;
    this.act = act;
    this.id = null;
    this.facts = new Map();
    this.ask = seldom(() => this.load(), ASK_MS);
    setInterval(() => this.age(), 1000);
  }

  /** Show this member from now on; null for none. */
  open(id, mesh) {
    if (id === this.id) return;
    this.id = id;
    this.facts.clear();
    byId("facts").replaceChildren();
    byId("advert").textContent = "";
    byId("raw").open = false;
    byId("told").hidden = true;
    if (id !== null) {
      this.show(mesh);
      this.ask();
    }
  }

  /** The mesh changed; `changed` says whether this member did. */
  show(mesh, changed = true) {
    if (this.id === null || mesh.name === "") return;
    const member = mesh.members.get(this.id);
    byId("panel-gone").hidden = member !== undefined;
    if (member === undefined) {
      write(byId("panel-gone"), `The mesh has forgotten ${shown(this.id)}.`);
      return;
    }
    this.member = member;
    this.head(member);
    this.tank(member);
    this.flows(member, mesh);
    this.entries(member);
    if (changed) this.ask();
  }

  head(member) {
    write(byId("panel-title"), shown(member.shortModel) || "No model yet", shown(member.model));
    write(byId("panel-rank"), member.rank);
    byId("panel-rank").hidden = member.rank === "";
    const badge = byId("panel-state");
    badge.className = `badge s-${member.state}`;
    badge.replaceChildren(icon(GLYPHS[member.state]), el("span", { text: member.state }));
    const reason = member.entries.map((entry) => entry.reason).find(Boolean);
    write(byId("panel-reason"), shown(reason ?? "") || STATES.get(member.state).meaning);
  }

  tank(member) {
    const { total, held, rate } = member;
    byId("tank").hidden = !member.loads;
    if (!member.loads) return;
    const bar = byId("tank-bar");
    mark(bar, "aria-valuenow", String(total > 0 ? Math.floor((100 * held) / total) : 0));
    mark(bar, "aria-valuetext", `${units.bytes(held)} of ${units.bytes(total)}`);
    bar.firstElementChild.style.setProperty("width", `${total > 0 ? (100 * held) / total : 0}%`);
    write(byId("tank-part"), units.percent(held, total));
    write(
      byId("tank-bytes"),
      total > 0 ? `${units.bytes(held)} of ${units.bytes(total)}` : "size not known yet",
      `${units.count(held)} of ${units.exactBytes(total)}`,
    );
    const left = rate > 0 ? `${units.rate(rate)}, about ${units.age((total - held) / rate)} left` : "no bytes now";
    write(byId("tank-rate"), left, units.exactRate(rate));
  }

  flows(member, mesh) {
    const from = member.feeds
      .map((feed) => ({
        key: `${feed.endpoint}|${feed.generation}`,
        id: feed.id,
        name: feed.id ?? `unknown member at ${feed.endpoint}`,
        bytes: feed.bytes,
        rate: feed.rate,
      }))
      .concat(
        member.readsStorage
          ? [{ key: "storage", id: null, name: "storage", bytes: null, rate: storageRate(member) }]
          : [],
      );
    const fed = [];
    for (const other of mesh.members.values()) {
      for (const feed of other.feeds) {
        if (feed.id === member.id) {
          fed.push({ key: other.id, id: other.id, name: other.id, bytes: feed.bytes, rate: feed.rate });
        }
      }
    }
    fed.sort((one, other) => other.rate - one.rate);
    const waits = member.awaits.map((id) => ({
      key: id,
      id: mesh.members.has(id) ? id : null,
      name: id,
      bytes: null,
      rate: null,
    }));
    this.flow("from", from);
    this.flow("fed", fed.slice(0, MAX_FED), fed.length);
    this.flow("waits", waits);
  }

  flow(name, items, all = items.length) {
    byId(`flow-${name}`).hidden = items.length === 0;
    write(byId(`flow-${name}-many`), String(all));
    keyed(
      byId(`flow-${name}-list`),
      items,
      (item) => item.key,
      (item) => this.flowLine(item),
      (line, item) => {
        write(line.querySelector(".flow-bytes"), item.bytes === null ? "" : units.bytes(item.bytes), item.bytes === null ? "" : units.exactBytes(item.bytes));
        write(line.querySelector(".flow-rate"), item.rate === null ? "" : units.rate(item.rate), item.rate === null ? "" : units.exactRate(item.rate));
      },
    );
  }

  flowLine(item) {
    const name =
      item.id === null
        ? el("span", { class: "foreign flow-name", text: shown(item.name) })
        : el("button", {
            type: "button",
            class: "link foreign flow-name",
            text: shown(item.name),
            on: { click: () => this.act.choose(item.id) },
          });
    return el("li", {}, name, el("span", { class: "flow-bytes" }), el("span", { class: "flow-rate" }));
  }

  entries(member) {
    const facts = byId("facts");
    keyed(
      facts,
      member.entries,
      (entry) => `${entry.role}|${entry.identity}|${member.entries.indexOf(entry)}`,
      () => el("section", { class: "holding" }, el("h3"), el("dl")),
      (section, entry) => {
        const several = member.entries.length > 1;
        section.firstElementChild.hidden = !several;
        write(section.firstElementChild, `${shown(entry.role ?? "member")}: ${shown(entry.model ?? "no model")}`);
        keyed(
          section.lastElementChild,
          factsOf(entry, this.clock.now()),
          (fact) => fact.name,
          (fact) => el("div", { class: "fact" }, el("dt", { text: fact.name }), el("dd", { class: "foreign" })),
          (line, fact) => {
            line.lastElementChild.classList.toggle("code", fact.code === true);
            write(line.lastElementChild, fact.text, fact.exact ?? fact.text);
          },
        );
      },
    );
  }

  age() {
    if (this.id !== null && this.member !== undefined) this.entries(this.member);
  }

  async load() {
    const { id } = this;
    if (id === null) return;
    let told;
    try {
      told = await api.member(id);
    } catch (error) {
      if (this.id === id) {
        byId("told").hidden = false;
        byId("advert").textContent = shown(error.message);
      }
      return;
    }
    if (this.id !== id) return;
    byId("told").hidden = false;
    write(byId("advert"), shownLines(JSON.stringify(told.advert, null, 2)));
    const { generation } = told.entries[0] ?? {};
    write(
      byId("record"),
      `generation ${generation}, incarnation ${told.incarnation}, version ${told.version}`,
    );
  }
}

function storageRate(member) {
  return Math.max(0, member.rate - member.feeds.reduce((sum, feed) => sum + feed.rate, 0));
}

/** What an entry says, as lines of a list; unknown things are left out. */
function factsOf(entry, now) {
  const origin = entry.reads_storage
    ? "reads storage now"
    : [entry.origin, (entry.carried_by ?? []).join(", ")].filter(Boolean).join(" by ");
  const { serving, pulling } = entry.sessions;
  const lines = [
    ["Model", entry.model],
    ["Given as", entry.given === entry.model ? null : entry.given],
    ["Role", entry.role],
    ["Rank", rankLabel(entry.layout)],
    ["State", stateOf(entry)],
    ["Host", entry.host],
    ["Member", entry.id, undefined, true],
    ["Source at", entry.endpoint, undefined, true],
    ["Carried by", (entry.transports ?? []).join(", ")],
    ["Fabric", entry.fabric],
    ["Weights", entry.bytes > 0 ? units.bytes(entry.bytes) : null, units.exactBytes(entry.bytes)],
    ["Layout", entry.weights_layout],
    ["Came from", origin],
    ["Sessions", entry.state === null ? null : `serves ${serving}, pulls from ${pulling}`],
    ["Up for", units.age(now - entry.started), `since ${units.dateTime(entry.started)}`],
    ["Release", entry.release],
    ["Content", entry.content, undefined, true],
    ["Identity", entry.identity, undefined, true],
  ];
  return lines
    .filter(([, text]) => typeof text === "string" && text !== "")
    .map(([name, text, exact, code]) => ({ name, text: shown(text), exact, code }));
}
