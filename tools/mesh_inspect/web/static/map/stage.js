/** The map: where it is looked at from, who is at the cursor, and when it is drawn. */

import * as cameras from "../model/camera.js";
import { sentence } from "../model/mesh.js";
import { around, at, CELL_HEIGHT, CELL_WIDTH, neighbour, placesOf } from "../model/places.js";
import * as units from "../model/units.js";
import { byId, el, keyed, mark, seldom, write } from "../parts/dom.js";
import { Motion } from "./motion.js";
import { Painter, paintMap } from "./paint.js";
import { listen } from "./pointer.js";
import { drawnEdges } from "./scene.js";
import { hint } from "./hint.js";

/** Members around the cursor that a screen reader can walk through without the map's keys. */
const WINDOW = 12;

const FLIGHT_MS = 260;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Stage {
  /** `act.choose(id, other)` is called for a click or Enter; `other`: to compare. */
  constructor(theme, act) {
    this.theme = theme;
    this.act = act;
    this.element = byId("stage");
    this.list = byId("members");
    this.hint = byId("hint");
    this.rest = new Painter(byId("rest"));
    this.moving = new Painter(byId("moving"));
    this.motion = new Motion();
    this.by = "host";
    this.shape = -1;
    this.storageSeen = false;
    this.fitting = true;
    this.flight = null;
    this.last_ms = null;
    this.asked = false;
    this.stale = true;
    this.covered = { right: 0, bottom: 0 };
    this.scene = {
      camera: { x: 0, y: 0, zoom: 1 },
      colours: theme.colours,
      places: placesOf([], { by: "host", aspect: 1, withStorage: false }),
      members: new Map(),
      edges: [],
      loading: [],
      reads: { many: 0, rate: 0 },
      matching: null,
      looked: new Set(),
      hovered: null,
      hoveredGroup: null,
      cursor: null,
      chosen: [],
      focused: false,
      frozen: false,
    };
    this.describe = seldom(() => this.tell(), 1000);
    theme.changed.push(() => this.redraw());
    new ResizeObserver(() => this.resize()).observe(this.element);
    this.resize();
    this.listen();
  }

  /** The part of the picture that nothing covers, in pixels from its top left. */
  get size() {
    const { width, height } = this.rest;
    return { width: width - this.covered.right, height: height - this.covered.bottom };
  }

  /** The panel lies over so many pixels at the right and at the bottom; the map stays where it is. */
  cover(right, bottom) {
    this.covered = { right, bottom };
    this.element.style.setProperty("--right", `${right}px`);
    this.element.style.setProperty("--bottom", `${bottom}px`);
    if (this.scene.chosen.length > 0) this.bring(this.scene.chosen[0]);
  }

  /** Draw these members, with `states` of those that just changed theirs (id to state). */
  show(mesh, states) {
    const { scene } = this;
    scene.members = mesh.members;
    const reading = [...mesh.members.values()].filter((member) => member.readsStorage);
    const storageSeen = this.storageSeen || reading.length > 0;
    if (mesh.shape !== this.shape || storageSeen !== this.storageSeen) {
      this.shape = mesh.shape;
      this.storageSeen = storageSeen;
      this.arrange();
    }
    for (const [id, state] of states) this.motion.ring(id, state);
    scene.loading = new Set();
    for (const member of mesh.members.values()) {
      if (member.loads && member.state === "loading") scene.loading.add(member.id);
    }
    this.connect();
    this.describe();
    this.redraw();
  }

  arrange() {
    const { scene } = this;
    const { width, height } = this.rest;
    scene.places = placesOf(scene.members.values(), {
      by: this.by,
      aspect: cameras.aspectOf(width, height),
      withStorage: this.storageSeen,
    });
    if (scene.cursor === null || !scene.places.cells.has(scene.cursor)) {
      scene.cursor = scene.places.groups[0]?.cells[0]?.id ?? null;
    }
    if (this.fitting) scene.camera = this.whole();
  }

  connect() {
    const { scene } = this;
    const found = drawnEdges(scene.members, scene.places, scene.looked);
    scene.edges = found.edges;
    const reads = found.all.filter((edge) => edge.kind === "storage");
    scene.reads = { many: reads.length, rate: reads.reduce((sum, edge) => sum + edge.rate, 0) };
    this.act.edges(found);
  }

  group(by) {
    this.by = by;
    this.fitting = true;
    this.arrange();
    this.connect();
    this.tell();
    this.redraw();
  }

  /** Only these members are clear, null for all. */
  filter(matching) {
    this.scene.matching = matching;
    this.redraw();
  }

  /** Nothing moves: nobody answers, or a recording is paused. */
  freeze(frozen) {
    if (frozen === this.scene.frozen) return;
    this.scene.frozen = frozen;
    this.redraw();
  }

  /** Put frames around the chosen members: one, or two that are compared. */
  choose(ids) {
    const { scene } = this;
    scene.chosen = ids;
    if (ids.length > 0 && scene.places.cells.has(ids[0])) scene.cursor = ids[0];
    this.look();
    this.tell();
  }

  look() {
    const { scene } = this;
    scene.looked = new Set(scene.hovered === null ? scene.chosen : [scene.hovered]);
    this.connect();
    this.redraw();
  }

  /** The camera that shows everything. */
  whole() {
    const { places } = this.scene;
    const { width, height } = this.size;
    return cameras.fitted(
      { left: 0, top: 0, right: places.width, bottom: places.height },
      width,
      height,
    );
  }

  fit() {
    this.fitting = true;
    this.fly(this.whole());
  }

  /** Show these members as large as they fit. */
  fitMembers(ids) {
    const box = around(this.scene.places, ids);
    if (box === null) return;
    this.fitting = false;
    this.fly(cameras.fitted(box, this.size.width, this.size.height, 1.1));
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    this.fitting = false;
    this.flight = null;
    this.scene.camera = this.kept(cameras.zoomed(this.scene.camera, factor, x, y));
    this.redraw();
  }

  kept(camera) {
    return cameras.held(camera, this.scene.places, this.size.width, this.size.height);
  }

  fly(camera) {
    if (this.theme.reduced) {
      this.scene.camera = camera;
    } else {
      this.flight = { from: this.scene.camera, to: camera, begun: performance.now() };
    }
    this.redraw();
  }

  resize() {
    const width = Math.max(1, this.element.clientWidth);
    const height = Math.max(1, this.element.clientHeight);
    const density = Math.min(2, window.devicePixelRatio || 1);
    this.rest.resize(width, height, density);
    this.moving.resize(width, height, density);
    if (this.fitting) {
      this.arrange();
      this.connect();
    }
    // Without this the canvases are empty until the next frame.
    this.draw(performance.now());
    this.redraw();
  }

  /** Everything is drawn again in the next frame. */
  redraw() {
    this.stale = true;
    this.wake();
  }

  wake() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame((now_ms) => {
      this.asked = false;
      this.draw(now_ms);
    });
  }

  draw(now_ms) {
    const { scene } = this;
    const passed_s = this.last_ms === null ? 0 : Math.min(0.1, (now_ms - this.last_ms) / 1000);
    if (this.flight !== null) {
      const part = Math.min(1, Math.max(0, (now_ms - this.flight.begun) / FLIGHT_MS));
      scene.camera = cameras.between(this.flight.from, this.flight.to, 1 - (1 - part) ** 3);
      if (part === 1) this.flight = null;
      this.stale = true;
    }
    scene.colours = this.theme.colours;
    if (this.stale) {
      paintMap(this.rest, scene);
      this.stale = false;
    }
    const busy = this.motion.paint(this.moving, scene, passed_s, this.theme.reduced);
    if (busy || this.flight !== null) {
      this.last_ms = now_ms;
      this.wake();
    } else {
      this.last_ms = null;
    }
  }

  listen() {
    const { list } = this;
    listen(list, {
      move: (dx, dy) => {
        this.fitting = false;
        this.flight = null;
        this.scene.camera = this.kept(cameras.moved(this.scene.camera, dx, dy));
        this.redraw();
      },
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      point: (x, y) => this.point(x, y),
      click: (x, y, event) => {
        const { id } = this.under(x, y);
        if (id !== null) this.act.choose(id, event.shiftKey);
        else this.act.nobody();
      },
      closer: (x, y) => this.closer(x, y),
    });
    list.addEventListener("focus", () => this.focus(list.matches(":focus-visible")));
    list.addEventListener("blur", () => this.focus(false));
    list.addEventListener("keydown", (event) => this.key(event));
    // A click with Shift would mark text of the page.
    list.addEventListener("mousedown", (event) => {
      if (event.shiftKey) event.preventDefault();
    });
  }

  focus(seen) {
    this.scene.focused = seen;
    this.tell();
    this.redraw();
  }

  key(event) {
    const { scene } = this;
    if (event.ctrlKey || event.altKey || event.metaKey || scene.cursor === null) return;
    const arrow = ARROWS[event.key];
    if (arrow !== undefined) {
      const next = neighbour(scene.places, scene.cursor, ...arrow);
      if (next !== null) this.moveTo(next);
    } else if (event.key === "Home" || event.key === "End") {
      const { groups } = scene.places;
      const cells = groups[event.key === "Home" ? 0 : groups.length - 1].cells;
      this.moveTo(cells[event.key === "Home" ? 0 : cells.length - 1].id);
    } else if (event.key === "PageDown" || event.key === "PageUp") {
      this.moveTo(this.nextMatch(event.key === "PageDown" ? 1 : -1));
    } else if (event.key === "Enter" || event.key === " ") {
      this.act.choose(scene.cursor, event.shiftKey, true);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Members in the order of the map, of those that pass the filter. */
  inOrder() {
    const { places, matching } = this.scene;
    const ids = places.groups.flatMap((group) => group.cells.map((cell) => cell.id));
    return matching === null ? ids : ids.filter((id) => matching.has(id));
  }

  nextMatch(step) {
    const ids = this.inOrder();
    if (ids.length === 0) return this.scene.cursor;
    const place = ids.indexOf(this.scene.cursor);
    return ids[(place + step + ids.length) % ids.length];
  }

  moveTo(id) {
    const { scene } = this;
    scene.cursor = id;
    scene.focused = true;
    this.bring(id);
    this.tell();
    this.redraw();
  }

  /** Move the camera just so far that this member is seen. */
  bring(id) {
    const { scene } = this;
    const cell = scene.places.cells.get(id);
    if (cell === undefined) return;
    const box = { left: cell.x, top: cell.y, right: cell.x + CELL_WIDTH, bottom: cell.y + CELL_HEIGHT };
    const camera = cameras.showing(scene.camera, box, this.size.width, this.size.height);
    if (camera.x === scene.camera.x && camera.y === scene.camera.y) return;
    this.fitting = false;
    this.fly(camera);
  }

  under(x, y) {
    const { camera, places } = this.scene;
    return at(places, camera.x + x / camera.zoom, camera.y + y / camera.zoom);
  }

  point(x, y) {
    const { scene } = this;
    const { group, id } = x === null ? { group: null, id: null } : this.under(x, y);
    const key = group === null ? null : group.key;
    if (id !== scene.hovered || key !== scene.hoveredGroup) {
      scene.hovered = id;
      scene.hoveredGroup = key;
      this.look();
    }
    mark(this.list, "data-over", id === null ? null : "");
    hint(this.hint, id === null ? null : scene.members.get(id), x, y, this.size);
  }

  closer(x, y) {
    const { group } = this.under(x, y);
    if (group === null) this.fit();
    else this.fitMembers(group.cells.map((cell) => cell.id));
  }

  /** The members around the cursor, for who hears the page. */
  tell() {
    const { scene, list } = this;
    const ids = scene.places.groups.flatMap((group) => group.cells.map((cell) => cell.id));
    const place = ids.indexOf(scene.cursor);
    const first = Math.max(0, place - WINDOW);
    const near = place < 0 ? [] : ids.slice(first, place + WINDOW + 1);
    keyed(
      list,
      near.map((id, index) => ({ id, number: first + index })),
      ({ id }) => id,
      () => el("div", { role: "option", class: "unseen" }),
      (option, { id, number }) => {
        const member = scene.members.get(id);
        option.id = `member-${number}`;
        mark(option, "aria-selected", String(scene.chosen.includes(id)));
        mark(option, "aria-setsize", String(ids.length));
        mark(option, "aria-posinset", String(number + 1));
        if (member !== undefined) write(option, spoken(member));
      },
    );
    mark(list, "aria-activedescendant", place < 0 ? null : `member-${place}`);
  }
}

function spoken(member) {
  return sentence(member, {
    state: member.state,
    progress: `${units.percent(member.held, member.total)} of ${units.bytes(member.total)}`,
  });
}
