/** The same as the map as a table: a line for each holding. Only lines that are seen are there. */

import { isGone, stateOf } from "../model/states.js";
import { rankLabel } from "../model/mesh.js";
import { naturally, shown } from "../model/text.js";
import * as units from "../model/units.js";
import { byId, el, icon, keyed, mark, write } from "./dom.js";
import { GLYPHS } from "./glyphs.js";

const ROW = 34;
const MORE = 6;

function progress({ entry }) {
  if (entry.state !== "loading") return entry.bytes;
  return entry.total_bytes > 0 ? entry.held_bytes / entry.total_bytes : 0;
}

/** Heading, what it is sorted by, what is shown, and the exact value. */
const COLUMNS = [
  {
    name: "state",
    title: "State",
    sort: (row) => row.state,
    text: (row) => row.state,
    exact: (row) => row.entry.reason ?? "",
  },
  {
    name: "model",
    title: "Model",
    sort: (row) => row.entry.model ?? "",
    text: (row) => shown(row.entry.model ?? "") || "-",
    exact: (row) => row.entry.given ?? "",
  },
  { name: "role", title: "Role", sort: (row) => row.entry.role ?? "", text: (row) => shown(row.entry.role ?? "") || "-" },
  { name: "rank", title: "Rank", sort: (row) => row.rank, text: (row) => row.rank || "-" },
  { name: "host", title: "Host", sort: (row) => row.entry.host ?? "", text: (row) => shown(row.entry.host ?? "") || "-" },
  { name: "id", title: "Member", sort: (row) => row.entry.id, text: (row) => shown(row.entry.id) },
  {
    name: "bytes",
    title: "Weights",
    number: true,
    sort: progress,
    text: ({ entry }) =>
      entry.state === "loading"
        ? `${units.percent(entry.held_bytes, entry.total_bytes)} of ${units.bytes(entry.total_bytes)}`
        : entry.bytes > 0
          ? units.bytes(entry.bytes)
          : "-",
    exact: ({ entry }) =>
      entry.state === "loading"
        ? `${units.count(entry.held_bytes)} of ${units.exactBytes(entry.total_bytes)}`
        : units.exactBytes(entry.bytes),
  },
  {
    name: "rate",
    title: "Rate",
    number: true,
    sort: (row) => row.entry.rate,
    text: (row) => (row.entry.rate > 0 ? units.rate(row.entry.rate) : "-"),
    exact: (row) => units.exactRate(row.entry.rate),
  },
  {
    name: "sources",
    title: "Gets from",
    number: true,
    sort: (row) => row.entry.feeds.length,
    text: ({ entry }) => {
      if (entry.reads_storage) return entry.feeds.length > 0 ? `storage +${entry.feeds.length}` : "storage";
      if (entry.feeds.length > 0) return units.many(entry.feeds.length, "source");
      return entry.awaits.length > 0 ? "waits" : "-";
    },
  },
  {
    name: "serving",
    title: "Serves",
    number: true,
    sort: (row) => row.entry.sessions.serving,
    text: (row) => (row.entry.sessions.serving > 0 ? units.count(row.entry.sessions.serving) : "-"),
  },
  {
    name: "age",
    title: "Age",
    number: true,
    sort: (row) => -row.entry.started,
    text: (row, at) => units.age(at - row.entry.started),
    exact: (row) => `since ${units.dateTime(row.entry.started)}`,
  },
];

export class Table {
  /** `act.choose(id, other, focus)` is called for a click or Enter on a line. */
  constructor(clock, act) {
    this.clock = clock;
    this.act = act;
    this.element = byId("table");
    this.scroll = byId("table-scroll");
    this.body = byId("table-body");
    this.members = [];
    this.rows = null;
    this.cursor = null;
    this.chosen = [];
    this.sort = { name: "model", down: false };
    byId("table-head").append(...COLUMNS.map((column) => this.heading(column)));
    this.scroll.addEventListener("scroll", () => this.draw());
    this.body.addEventListener("click", (event) => this.click(event));
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.scroll);
    this.tellOrder();
  }

  heading(column) {
    const button = el("button", {
      type: "button",
      text: column.title,
      on: { click: () => this.sortBy(column.name) },
    });
    return el(
      "div",
      { role: "columnheader", class: `c-${column.name}${column.number ? " number" : ""}`, data: { name: column.name } },
      button,
    );
  }

  sortBy(name) {
    this.sort = { name, down: this.sort.name === name ? !this.sort.down : false };
    this.tellOrder();
    this.rows = null;
    this.draw();
  }

  tellOrder() {
    for (const heading of byId("table-head").children) {
      const sorted = heading.dataset.name === this.sort.name;
      const way = this.sort.down ? "descending" : "ascending";
      mark(heading, "aria-sort", sorted ? way : "none");
    }
  }

  /** Show these members; as long as the table is not seen, they only are remembered. */
  show(members) {
    this.members = members;
    this.rows = null;
    this.draw();
  }

  gather() {
    this.rows = this.members.flatMap((member) =>
      member.entries.map((entry, index) => ({
        key: `${entry.id}|${index}`,
        id: entry.id,
        entry,
        state: stateOf(entry),
        rank: rankLabel(entry.layout),
      })),
    );
    this.order();
  }

  order() {
    const { sort } = COLUMNS.find((column) => column.name === this.sort.name);
    const way = this.sort.down ? -1 : 1;
    const compare = (one, other) => {
      const [left, right] = [sort(one), sort(other)];
      const order = typeof left === "number" ? left - right : naturally(left, right);
      return (
        way * order ||
        Number(isGone(one.state)) - Number(isGone(other.state)) ||
        naturally(one.rank, other.rank) ||
        naturally(one.key, other.key)
      );
    };
    this.rows.sort(compare);
  }

  choose(ids) {
    this.chosen = ids;
    this.draw();
  }

  draw() {
    if (this.element.hidden) return;
    if (this.rows === null) this.gather();
    const { scroll, rows } = this;
    mark(scroll, "aria-rowcount", String(rows.length + 1));
    const head = byId("table-head").offsetHeight;
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - MORE);
    const last = Math.ceil((scroll.scrollTop + scroll.clientHeight - head) / ROW) + MORE;
    const near = rows.slice(first, last).map((row, index) => ({ row, number: first + index }));
    const kept = rows.findIndex((row) => row.key === this.cursor);
    if (kept >= 0 && (kept < first || kept >= last)) near.push({ row: rows[kept], number: kept });
    this.body.style.setProperty("height", `${rows.length * ROW}px`);
    byId("table-none").hidden = rows.length > 0;
    const at = this.clock.now();
    keyed(
      this.body,
      near,
      ({ row }) => row.key,
      () => this.line(),
      (line, { row, number }) => this.fill(line, row, number, at),
    );
    mark(scroll, "aria-activedescendant", kept < 0 ? null : `row-${kept}`);
  }

  line() {
    return el(
      "div",
      { role: "row", class: "line" },
      ...COLUMNS.map((column) =>
        el(
          "div",
          { role: "cell", class: `c-${column.name} foreign${column.number ? " number" : ""}` },
          column.name === "state" ? icon(GLYPHS.alive) : null,
          el("span"),
        ),
      ),
    );
  }

  fill(line, row, number, at) {
    line.id = `row-${number}`;
    line.style.setProperty("transform", `translateY(${number * ROW}px)`);
    mark(line, "aria-rowindex", String(number + 2));
    mark(line, "aria-selected", String(this.chosen.includes(row.id)));
    line.classList.toggle("cursor", row.key === this.cursor);
    line.classList.toggle("gone", isGone(row.state));
    if (line.dataset.state !== row.state) {
      line.dataset.state = row.state;
      const sign = line.firstElementChild;
      sign.className = `c-state s-${row.state}`;
      sign.firstElementChild.firstElementChild.setAttribute("d", GLYPHS[row.state]);
    }
    COLUMNS.forEach((column, index) => {
      const text = column.text(row, at);
      const exact = column.exact === undefined ? text : shown(column.exact(row));
      write(line.children[index].lastElementChild, text, exact);
    });
  }

  click(event) {
    const line = event.target.closest(".line");
    if (line === null) return;
    this.cursor = line.dataset.key;
    this.scroll.focus({ preventScroll: true });
    this.act.choose(this.rowAtCursor().id, event.shiftKey);
  }

  rowAtCursor() {
    return this.rows.find((row) => row.key === this.cursor);
  }

  key(event) {
    if (event.target !== this.scroll || this.rows === null || this.rows.length === 0) return;
    const place = this.rows.findIndex((row) => row.key === this.cursor);
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key in steps) {
      this.moveTo(place < 0 ? 0 : place + steps[event.key]);
    } else if (event.key === "Home") {
      this.moveTo(0);
    } else if (event.key === "End") {
      this.moveTo(this.rows.length - 1);
    } else if ((event.key === "Enter" || event.key === " ") && place >= 0) {
      this.act.choose(this.rows[place].id, event.shiftKey, true);
    } else {
      return;
    }
    event.preventDefault();
  }

  moveTo(place) {
    const number = Math.min(this.rows.length - 1, Math.max(0, place));
    this.cursor = this.rows[number].key;
    const { scroll } = this;
    const seen = scroll.clientHeight - byId("table-head").offsetHeight;
    const top = number * ROW;
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    else if (top + ROW > scroll.scrollTop + seen) scroll.scrollTop = top + ROW - seen;
    this.draw();
  }
}
