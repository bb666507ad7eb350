/** The time line: what happened, newest first, and when much of it did. */

import { groupOf, histogram, TimeLine } from "../model/happenings.js";
import { shown } from "../model/text.js";
import * as units from "../model/units.js";
import { byId, el, keyed, mark, seldom, write } from "./dom.js";
import { remember, remembered } from "./theme.js";

const GROUPS = ["joins", "deaths", "loads", "others"];
const KEY = "mesh-inspect.timeline";

/** The shortest time that the picture shows, in seconds. */
const LEAST_S = 300;
const BAR = 6;

export class TimeLineView {
  /** `act.choose(id)` is called for a click on a line. */
  constructor(theme, clock, act) {
    this.theme = theme;
    this.clock = clock;
    this.act = act;
    this.lines = new TimeLine();
    this.groups = new Set();
    this.numbers = new WeakMap();
    this.number = 0;
    this.element = byId("timeline");
    this.list = byId("happened");
    this.picture = byId("when");
    for (const button of byId("kinds").querySelectorAll("button")) {
      button.addEventListener("click", () => this.filter(button.dataset.group));
    }
    byId("fold").addEventListener("click", () => this.fold(!this.folded));
    const small = window.innerHeight < 620 || window.innerWidth < 620;
    this.fold((remembered(KEY) ?? (small ? "folded" : "open")) === "folded");
    this.show = seldom(() => this.draw(), 250);
    theme.changed.push(() => this.draw());
    new ResizeObserver(() => this.show()).observe(this.picture);
    // The picture moves on while nothing happens.
    setInterval(() => this.show(), 5000);
  }

  fold(folded) {
    this.folded = folded;
    this.element.classList.toggle("folded", folded);
    mark(byId("fold"), "aria-expanded", String(!folded));
    remember(KEY, folded ? "folded" : "open");
  }

  filter(group) {
    if (group === "all") this.groups.clear();
    else if (!this.groups.delete(group)) this.groups.add(group);
    for (const button of byId("kinds").querySelectorAll("button")) {
      const { group: name } = button.dataset;
      const pressed = name === "all" ? this.groups.size === 0 : this.groups.has(name);
      mark(button, "aria-pressed", String(pressed));
    }
    this.draw();
  }

  replace(lines, meanwhile) {
    this.lines.replace(lines, meanwhile);
    this.show();
  }

  add(line) {
    this.lines.add(line);
    this.show();
  }

  keyOf(line) {
    if (!this.numbers.has(line)) {
      this.number += 1;
      this.numbers.set(line, this.number);
    }
    return this.numbers.get(line);
  }

  draw() {
    const lines = this.lines.of(this.groups);
    byId("nothing").hidden = lines.length > 0;
    keyed(
      this.list,
      lines,
      (line) => this.keyOf(line),
      (line) => this.item(line),
      () => {},
    );
    const [newest] = this.lines.lines.slice(-1);
    write(byId("latest"), newest === undefined ? "" : shown(`${newest.id} ${newest.text}`));
    this.drawPicture();
  }

  item(line) {
    const group = groupOf(line.kind);
    return el(
      "li",
      { class: `k-${group}` },
      el(
        "button",
        { type: "button", on: { click: () => this.act.choose(line.id) } },
        el("time", { text: units.clockTime(line.at), title: units.dateTime(line.at) }),
        el("span", { class: "kind", text: shown(line.kind) }),
        el("span", { class: "foreign who", text: shown(line.id), title: shown(line.id) }),
        el("span", { class: "foreign what", text: shown(line.text), title: shown(line.text) }),
      ),
    );
  }

  drawPicture() {
    const { picture, theme } = this;
    const to = this.clock.now();
    const lines = this.lines.lines;
    if (!Number.isFinite(to) || picture.clientWidth === 0) return;
    const first = lines.length > 0 ? lines[0].at : to;
    const from = to - Math.max(LEAST_S, Math.min(3600, (to - first) * 1.05));
    const density = Math.min(2, window.devicePixelRatio || 1);
    const width = picture.clientWidth;
    const height = picture.clientHeight;
    picture.width = width * density;
    picture.height = height * density;
    const context = picture.getContext("2d");
    context.scale(density, density);
    const slots = Math.max(1, Math.floor(width / BAR));
    const counts = histogram(
      lines.filter((line) => this.groups.size === 0 || this.groups.has(groupOf(line.kind))),
      from,
      to,
      slots,
    );
    const sum = (slot) => GROUPS.reduce((all, group) => all + slot[group], 0);
    const most = Math.max(4, ...counts.map(sum));
    context.fillStyle = theme.colours["card-line"];
    context.fillRect(0, height - 1, width, 1);
    counts.forEach((slot, index) => {
      let y = height - 2;
      for (const group of GROUPS) {
        if (slot[group] === 0) continue;
        const high = Math.max(2, (slot[group] / most) * (height - 4));
        context.fillStyle = theme.colours[group];
        context.fillRect(index * BAR, y - high, BAR - 2, high);
        y -= high + 0.5;
      }
    });
    write(byId("when-from"), units.clockTime(from));
    write(byId("when-to"), units.clockTime(to));
    mark(picture, "aria-label", `${units.many(lines.length, "line")} since ${units.clockTime(from)}`);
  }
}
