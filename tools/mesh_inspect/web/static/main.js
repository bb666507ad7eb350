/** The page: what the server tells goes to every part, and what a person does goes to all others. */

import { follow } from "./io/stream.js";
import * as api from "./io/api.js";
import { Stage } from "./map/stage.js";
import { ShownClock } from "./model/clock.js";
import { isNarrow, parse, passes } from "./model/filter.js";
import { MAX_LINES } from "./model/happenings.js";
import { MeshView } from "./model/mesh.js";
import { STATES } from "./model/states.js";
import { naturally, shortName, shown } from "./model/text.js";
import * as units from "./model/units.js";
import { Announcer } from "./parts/announcer.js";
import { Compare } from "./parts/compare.js";
import { byId, el, icon, keyed, mark, seldom, write } from "./parts/dom.js";
import { GLYPHS } from "./parts/glyphs.js";
import { Header } from "./parts/header.js";
import { Panel } from "./parts/panel.js";
import { ReplayBar } from "./parts/replay.js";
import { Table } from "./parts/table.js";
import { remember, remembered, Theme } from "./parts/theme.js";
import { TimeLineView } from "./parts/timeline.js";

const LETTERS = "mesh-inspect.letters";

class Page {
  constructor() {
    this.mesh = new MeshView();
    this.clock = new ShownClock(() => performance.now() / 1000);
    this.filter = { terms: [], states: new Set(), model: null };
    this.chosen = [];
    this.picking = false;
    this.silence = null;
    this.link = { state: "", said: "" };
    this.back = null;
    this.meanwhile = [];
    this.rings = new Map();
    this.changed = new Set();
    this.theme = new Theme();
    const choose = (id, other, focus) => this.choose(id, other, focus);
    this.announcer = new Announcer();
    this.panel = new Panel(this.clock, { choose: (id) => this.choose(id, false, true) });
    this.compare = new Compare();
    this.table = new Table(this.clock, { choose });
    this.header = new Header(this.theme, { filterState: (state) => this.filterState(state) });
    this.replay = new ReplayBar(this.clock, { failed: (error) => this.announcer.say(error.message) });
    this.timeline = new TimeLineView(this.theme, this.clock, { choose: (id) => this.visit(id) });
    this.stage = new Stage(this.theme, {
      choose,
      nobody: () => this.dismiss(),
      edges: (found) => this.tellEdges(found),
    });
    this.render = seldom(() => this.draw(), 80);
    this.listen();
    this.explain();
    this.restore();
    follow({
      mesh: (document) => this.replaced(document),
      change: (change) => this.change(change),
      happened: (line) => this.happened(line),
      silence: (told) => this.silent(told.text, told.at),
      replay: (replay) => this.replayed(replay),
      link: (state, said) => this.linked(state, said),
    });
    // Ages go on, and silence grows, without news.
    setInterval(() => this.tellAlarm(), 1000);
  }

  // What the server tells.

  replaced(document) {
    this.mesh.replace(document);
    this.clock.hear(document.at, document.replay);
    this.replay.show(document.replay);
    this.changed = new Set(this.mesh.members.keys());
    this.rings.clear();
    this.silent(document.silence, document.at);
    this.draw();
    this.meanwhile = [];
    api.happened().then(
      (lines) => this.timeline.replace(lines, this.meanwhile),
      (error) => this.announcer.say(error.message),
    );
    this.markFirst();
  }

  /** For who measures: the mesh is drawn, and then the first moment in which a key would be heard. */
  markFirst() {
    if (performance.getEntriesByName("mesh-shown").length > 0) return;
    performance.mark("mesh-shown");
    requestAnimationFrame(() => setTimeout(() => performance.mark("interactive")));
  }

  change(change) {
    const before = new Map();
    for (const entry of change.changed) {
      before.set(entry.id, this.mesh.members.get(entry.id)?.state ?? null);
    }
    this.mesh.change(change);
    this.clock.hear(change.at, this.replay.replay && { ...this.replay.replay, at: change.at });
    for (const [id, state] of before) {
      this.changed.add(id);
      const now = this.mesh.members.get(id).state;
      if (now !== state) this.rings.set(id, now);
    }
    for (const id of change.gone) this.changed.add(id);
    this.render();
  }

  happened(line) {
    this.meanwhile.push(line);
    if (this.meanwhile.length > MAX_LINES) this.meanwhile.shift();
    this.timeline.add(line);
    this.announcer.add(line);
  }

  silent(text, at) {
    this.silence = text === null ? null : { text, at };
    this.tellAlarm();
  }

  replayed(replay) {
    this.clock.follow(replay);
    this.replay.show(replay);
    this.tellAlarm();
  }

  linked(state, said) {
    this.link = { state, said };
    this.tellAlarm();
  }

  // What is seen.

  draw() {
    const { mesh, filter } = this;
    const matching = isNarrow(filter)
      ? new Set([...mesh.members.values()].filter((member) => passes(filter, member)).map((member) => member.id))
      : null;
    const totals = mesh.totals();
    const hosts = new Set([...mesh.members.values()].filter((member) => member.live).map((member) => member.host));
    this.header.show(mesh.name, totals, hosts.size, this.clock.now(), filter.states, this.alarmed);
    this.stage.filter(matching);
    this.stage.show(mesh, this.rings);
    this.rings.clear();
    this.table.show(
      matching === null ? [...mesh.members.values()] : [...matching].map((id) => mesh.members.get(id)),
    );
    this.panel.show(mesh, this.changed.has(this.chosen[0]));
    this.compare.show(mesh, this.chosen.some((id) => this.changed.has(id)));
    this.changed = new Set();
    this.listModels();
    write(
      byId("found"),
      matching === null ? "" : `${units.count(matching.size)} of ${units.count(mesh.members.size)}`,
    );
    const empty = byId("empty");
    empty.hidden = mesh.members.size > 0;
    write(empty, mesh.name === "" ? "Connecting ..." : "No member is known in this mesh.");
  }

  listModels() {
    const models = new Map();
    for (const member of this.mesh.members.values()) {
      for (const entry of member.entries) {
        if (entry.model !== null) models.set(entry.model, (models.get(entry.model) ?? 0) + 1);
      }
    }
    const choice = byId("model");
    const sorted = [...models.keys()].sort(naturally);
    if (this.filter.model !== null && !models.has(this.filter.model)) sorted.push(this.filter.model);
    keyed(
      choice,
      ["", ...sorted],
      (model) => `m${model}`,
      (model) => new Option(model === "" ? "All models" : shortName(model), model),
      () => {},
    );
    choice.value = this.filter.model ?? "";
  }

  tellEdges({ summed, all, edges }) {
    const note = byId("summed");
    note.hidden = !summed;
    if (summed) {
      const what = this.stage.by === "host" ? "hosts" : "models";
      write(note, `${units.many(all.length, "line")}, summed by ${what} (${units.count(edges.length)})`);
    }
  }

  get alarmed() {
    return this.silence !== null || this.link.state === "lost" || this.link.state === "refused";
  }

  tellAlarm() {
    const alarm = byId("alarm");
    const { state, said } = this.link;
    // The title says it, too.
    if (document.body.classList.toggle("silent", this.alarmed) === alarm.hidden) this.render();
    this.stage.freeze(this.alarmed || this.replay.replay?.paused === true);
    if (!this.alarmed) {
      if (!alarm.hidden) this.announcer.say("The mesh answers again.");
      alarm.hidden = true;
      return;
    }
    let title = "Nobody in the mesh answers.";
    let text = "";
    if (state === "refused") {
      title = "mesh-inspect refuses this page.";
      text = said || "Open the address that the command printed.";
    } else if (state === "lost") {
      title = "The connection to mesh-inspect is lost.";
      text = "Trying again. Is the command still running?";
    } else {
      text = this.silence.text;
    }
    const at = this.silence?.at ?? this.clock.at;
    const since = Number.isFinite(at) ? ` Shown is what was so before ${units.clockTime(at)}.` : "";
    write(byId("alarm-title"), title);
    const end = text === "" || /[.?!]$/u.test(text) ? "" : ".";
    write(byId("alarm-text"), `${shown(text)}${end}${since}`);
    alarm.hidden = false;
  }

  // What a person does.

  /** Choose a member; `other`: as the second of two. `focus`: the keyboard goes along. */
  choose(id, other = false, focus = false) {
    const second = (other || this.picking) && this.chosen.length > 0 && this.chosen[0] !== id;
    if (this.chosen.length === 0) this.back = document.activeElement;
    this.chosen = second ? [this.chosen[0], id] : [id];
    this.picking = false;
    this.showChosen();
    if (focus) byId("panel-heading").focus();
  }

  /** Choose a member and show where it is. */
  visit(id) {
    if (!this.mesh.members.has(id)) return;
    this.choose(id);
    if (!byId("stage").hidden) this.stage.moveTo(id);
  }

  dismiss() {
    if (this.picking) {
      this.picking = false;
      this.showChosen();
      return true;
    }
    if (this.chosen.length === 0) return false;
    this.chosen = this.chosen.length === 2 ? [this.chosen[0]] : [];
    const inside = byId("panel").contains(document.activeElement);
    this.showChosen();
    if (this.chosen.length === 0 && inside) (this.back ?? byId("members")).focus();
    return true;
  }

  showChosen() {
    const { chosen } = this;
    const two = chosen.length === 2;
    byId("panel").hidden = chosen.length === 0;
    byId("panel-member").hidden = two;
    byId("panel-match").hidden = !two;
    byId("compare-start").hidden = two;
    write(byId("panel-heading"), two ? "Do they match?" : "Member");
    byId("picking").hidden = !this.picking;
    if (this.picking) write(byId("picking"), "Choose the other member: a click, or arrows and Enter. Esc goes back.");
    mark(byId("compare-start"), "aria-pressed", String(this.picking));
    this.panel.open(chosen[0] ?? null, this.mesh);
    this.compare.open(two ? chosen : null, this.mesh);
    this.stage.choose(chosen);
    this.cover();
    this.table.choose(chosen);
    this.keep();
  }

  /** Tell the map how much of it the panel covers: the right, or on a narrow page the bottom. */
  cover() {
    const panel = byId("panel");
    const box = panel.getBoundingClientRect();
    const beside = box.width < window.innerWidth - 8;
    if (panel.hidden) this.stage.cover(0, 0);
    else this.stage.cover(beside ? box.width : 0, beside ? 0 : box.height);
    byId("table").style.setProperty("right", panel.hidden || !beside ? "0" : `${box.width}px`);
  }

  pick() {
    if (this.chosen.length !== 1) return;
    this.picking = !this.picking;
    this.showChosen();
    if (this.picking && !byId("stage").hidden) byId("members").focus({ preventScroll: true });
  }

  filterState(state) {
    if (!this.filter.states.delete(state)) this.filter.states.add(state);
    this.draw();
  }

  view(name) {
    const map = name === "map";
    byId("stage").hidden = !map;
    byId("table").hidden = map;
    for (const button of document.querySelectorAll("[data-view]")) {
      mark(button, "aria-pressed", String(button.dataset.view === name));
    }
    if (map) this.stage.resize();
    else this.table.draw();
    this.keep();
  }

  group(by) {
    for (const button of document.querySelectorAll("[data-by]")) {
      mark(button, "aria-pressed", String(button.dataset.by === by));
    }
    this.stage.group(by);
    this.keep();
  }

  /** What is looked at stands in the address: it can be shared, and survives a reload. */
  keep() {
    const place = new URLSearchParams();
    if (!byId("table").hidden) place.set("view", "table");
    if (this.stage.by !== "host") place.set("by", this.stage.by);
    for (const id of this.chosen) place.append("member", id);
    const hash = place.toString();
    history.replaceState(null, "", hash === "" ? location.pathname + location.search : `#${hash}`);
  }

  restore() {
    const place = new URLSearchParams(location.hash.slice(1));
    this.chosen = place.getAll("member").slice(0, 2);
    const by = place.get("by") === "model" ? "model" : "host";
    if (by !== this.stage.by) this.group(by);
    const view = place.get("view") === "table" ? "table" : "map";
    if ((view === "map") !== !byId("stage").hidden) this.view(view);
    this.showChosen();
  }

  listen() {
    const search = byId("search");
    search.addEventListener("input", () => {
      this.filter.terms = parse(search.value);
      this.render();
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.goToFound();
    });
    byId("model").addEventListener("change", (event) => {
      this.filter.model = event.target.value === "" ? null : event.target.value;
      this.draw();
    });
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => this.view(button.dataset.view));
    }
    for (const button of document.querySelectorAll("[data-by]")) {
      button.addEventListener("click", () => this.group(button.dataset.by));
    }
    byId("theme").addEventListener("click", () => this.theme.turn());
    byId("zoom-in").addEventListener("click", () => this.stage.zoom(1.4));
    byId("zoom-out").addEventListener("click", () => this.stage.zoom(1 / 1.4));
    byId("zoom-fit").addEventListener("click", () => this.stage.fit());
    byId("panel-close").addEventListener("click", () => {
      this.picking = false;
      this.chosen = this.chosen.slice(0, 1);
      this.dismiss();
    });
    byId("compare-start").addEventListener("click", () => this.pick());
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("help-close").addEventListener("click", () => byId("help").close());
    byId("letters").checked = remembered(LETTERS) !== "off";
    byId("letters").addEventListener("change", (event) => {
      remember(LETTERS, event.target.checked ? "on" : "off");
    });
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("resize", () => this.cover());
    window.addEventListener("hashchange", () => this.restore());
  }

  goToFound() {
    const ids = this.stage.inOrder();
    if (!isNarrow(this.filter) || ids.length === 0 || byId("stage").hidden) return;
    this.stage.fitMembers(ids);
    this.stage.moveTo(ids[0]);
    byId("members").focus();
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
    const { target } = event;
    if (event.key === "Escape") {
      if (target === byId("search") && target.value !== "") {
        target.value = "";
        this.filter.terms = [];
        this.draw();
      } else if (!this.dismiss() && target === byId("search")) {
        target.blur();
      }
      return;
    }
    const types = target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (types || !byId("letters").checked) return;
    const act = {
      "/": () => byId("search").focus(),
      "?": () => byId("help").showModal(),
      m: () => this.pick(),
      t: () => this.view(byId("table").hidden ? "table" : "map"),
      g: () => this.group(this.stage.by === "host" ? "model" : "host"),
      p: () => this.replay.turn(),
      "+": () => this.stage.zoom(1.4),
      "=": () => this.stage.zoom(1.4),
      "-": () => this.stage.zoom(1 / 1.4),
      0: () => this.stage.fit(),
    }[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  }

  explain() {
    byId("help-states").append(
      ...[...STATES].map(([state, { meaning }]) =>
        el("div", { class: `s-${state}` }, el("dt", {}, icon(GLYPHS[state]), el("span", { text: state })), el("dd", { text: meaning })),
      ),
    );
  }
}

new Page();
performance.mark("page-ready");
