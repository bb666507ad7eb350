/** What is on top: the name of the mesh, how many members are in which state, and the total rate. */

import { isGone, STATES } from "../model/states.js";
import { shown } from "../model/text.js";
import * as units from "../model/units.js";
import { byId, el, icon, keyed, mark, write } from "./dom.js";
import { GLYPHS } from "./glyphs.js";

/** Seconds of the small curve of the rate. */
const PAST_S = 120;

/** States whose chips are there from the beginning; others come with their first member. */
const ALWAYS = new Set(["ready", "loading"]);

export class Header {
  /** `act.filterState(state)` is called for a click on a state. */
  constructor(theme, act) {
    this.theme = theme;
    this.act = act;
    this.chips = byId("states");
    this.curve = byId("rate-curve");
    this.points = [];
    this.seen = new Set(ALWAYS);
    theme.changed.push(() => this.draw());
  }

  /** `totals` of the mesh, at the time `at`; `chosen` states are those that the filter lets pass. */
  show(name, totals, hosts, at, chosen, silent) {
    write(byId("mesh-name"), shown(name) || "mesh");
    const gone = [...totals.states].filter(([state]) => isGone(state));
    const live = totals.members - gone.reduce((sum, [, many]) => sum + many, 0);
    write(byId("mesh-size"), `${units.many(live, "member")} on ${units.many(hosts, "host")}`);
    for (const state of totals.states.keys()) this.seen.add(state);
    for (const state of chosen) this.seen.add(state);
    keyed(
      this.chips,
      [...STATES.keys()].filter((state) => this.seen.has(state)),
      (state) => state,
      (state) => this.chip(state),
      (chip, state) => {
        const many = totals.states.get(state) ?? 0;
        write(chip.querySelector(".many"), units.count(many));
        mark(chip, "aria-pressed", String(chosen.has(state)));
        chip.classList.toggle("none", many === 0);
      },
    );
    write(byId("rate"), units.rate(totals.rate), units.exactRate(totals.rate));
    const moving = units.many(totals.transfers, "transfer");
    const reading = totals.reads > 0 ? `, ${units.many(totals.reads, "storage read")}` : "";
    write(byId("transfers"), `${moving}${reading}`);
    document.title = this.title(name, live, totals, silent);
    this.remember(at, totals.rate);
  }

  title(name, live, totals, silent) {
    const ready = totals.states.get("ready") ?? 0;
    const loading = totals.states.get("loading") ?? 0;
    const counts = `${units.many(live, "member")}, ${ready} ready, ${loading} loading`;
    return `${silent ? "No answer: " : ""}${shown(name)}: ${counts} - mesh-inspect`;
  }

  chip(state) {
    return el(
      "button",
      {
        type: "button",
        class: `chip s-${state}`,
        title: `${state}: ${STATES.get(state).meaning}. Click to show only these.`,
        on: { click: () => this.act.filterState(state) },
      },
      icon(GLYPHS[state]),
      el("span", { class: "many", text: "0" }),
      el("span", { class: "word", text: state }),
    );
  }

  remember(at, rate) {
    const last = this.points[this.points.length - 1];
    // A recording may be wound back.
    if (last !== undefined && at < last.at - 1) this.points = [];
    if (last !== undefined && at - last.at < 0.5) last.rate = rate;
    else this.points.push({ at, rate });
    while (this.points.length > 0 && this.points[0].at < at - PAST_S) this.points.shift();
    this.draw();
  }

  draw() {
    const { curve, points } = this;
    const context = curve.getContext("2d");
    const density = Math.min(2, window.devicePixelRatio || 1);
    const width = curve.clientWidth;
    const height = curve.clientHeight;
    curve.width = width * density;
    curve.height = height * density;
    if (points.length < 2) return;
    context.scale(density, density);
    const last = points[points.length - 1].at;
    const most = Math.max(1, ...points.map((point) => point.rate));
    const x = (at) => width - 2 - ((last - at) / PAST_S) * (width - 2);
    const y = (rate) => height - 2 - (rate / most) * (height - 5);
    context.beginPath();
    points.forEach((point, index) => {
      if (index === 0) context.moveTo(x(point.at), y(point.rate));
      else context.lineTo(x(point.at), y(point.rate));
    });
    context.strokeStyle = this.theme.colours.transfer;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(x(last), height);
    context.lineTo(x(points[0].at), height);
    context.globalAlpha = 0.14;
    context.fillStyle = this.theme.colours.transfer;
    context.fill();
  }
}
