/** What moves on the map: bytes on their edges, tanks that fill, rings around what just changed. */

import { CELL_HEIGHT, CELL_WIDTH } from "../model/places.js";
import { along, pace } from "../model/curves.js";
import { cellSigns, isClose, overlaps, SANS, strength, visible } from "./paint.js";

/** Seconds in which a tank rises two thirds of the way to what was told last. */
const RISE_S = 0.4;

/** Seconds that a ring spreads. */
const RING_S = 1.1;

/** Rings at one time: more say no more. */
const MAX_RINGS = 60;

/** Pixels between two particles of an edge, and those that a particle is long. */
const APART = 72;
const LONG = 9;

export class Motion {
  constructor() {
    this.levels = new Map();
    this.rings = [];
    /** How far the first particle of each edge is, in parts of the way between two. */
    this.phases = new Map();
  }

  /** Somebody changed its state. */
  ring(id, state) {
    if (this.rings.length < MAX_RINGS) this.rings.push({ id, state, age: 0 });
  }

  /** Draw one frame; true while another is needed. */
  paint(painter, scene, passed_s, reduced) {
    painter.begin();
    const seen = visible(painter, scene.camera);
    // In silence nobody knows what moves.
    let busy = !reduced && !scene.frozen && this.particles(painter, scene, passed_s);
    busy = this.tanks(painter, scene, seen, reduced ? Infinity : passed_s) || busy;
    if (reduced) this.rings.length = 0;
    else busy = this.spread(painter, scene, passed_s) || busy;
    frames(painter, scene);
    return busy;
  }

  tanks(painter, scene, seen, passed_s) {
    const { context } = painter;
    const { camera, colours, places, members, matching } = scene;
    const { zoom } = camera;
    const width = CELL_WIDTH * zoom;
    const height = CELL_HEIGHT * zoom;
    const part = 1 - Math.exp(-passed_s / RISE_S);
    let rising = false;
    for (const id of this.levels.keys()) {
      if (!scene.loading.has(id)) this.levels.delete(id);
    }
    for (const id of scene.loading) {
      const cell = places.cells.get(id);
      const member = members.get(id);
      if (cell === undefined || member === undefined) continue;
      let level = this.levels.get(id) ?? member.level;
      // A load that begins again is no tank that runs dry slowly.
      level = member.level < level ? member.level : level + (member.level - level) * part;
      this.levels.set(id, level);
      rising = rising || member.level - level > 0.002;
      if (!overlaps({ x: cell.x, y: cell.y, width: CELL_WIDTH, height: CELL_HEIGHT }, seen)) continue;
      const x = (cell.x - camera.x) * zoom;
      const y = (cell.y - camera.y) * zoom;
      const alpha = matching === null || matching.has(id) ? 1 : 0.16;
      const full = level * height;
      context.globalAlpha = 0.42 * alpha;
      context.fillStyle = colours.loading;
      const round = Math.min(5, height * 0.12, full / 2);
      if (height > 20) {
        context.beginPath();
        context.roundRect(x + 0.5, y + height - full, width - 1, full, [0, 0, round, round]);
        context.fill();
      } else {
        context.fillRect(x, y + height - full, width, full);
      }
      if (full > 1 && level < 0.995) {
        context.globalAlpha = alpha;
        context.fillRect(x + 0.5, y + height - full - 0.75, width - 1, 1.5);
      }
      context.globalAlpha = alpha;
      cellSigns(painter, scene, member, x, y, width, height);
    }
    context.globalAlpha = 1;
    return rising;
  }

  particles(painter, scene, passed_s) {
    const { context } = painter;
    const { camera, colours } = scene;
    const head = [0, 0];
    const tail = [0, 0];
    // Of many lines each has fewer: the picture stays calm, and a frame short.
    const most = Math.max(3, Math.min(14, Math.round(600 / Math.max(1, scene.edges.length))));
    let any = false;
    if (this.phases.size > 4 * scene.edges.length + 100) this.phases.clear();
    const lots = new Map();
    for (const drawn of scene.edges) {
      const { edge } = drawn;
      if (edge.rate <= 0 || edge.kind === "wait") continue;
      const force = strength(scene, drawn);
      if (force < 0.2) continue;
      any = true;
      const length = drawn.length * camera.zoom;
      const number = Math.max(1, Math.min(most, Math.round(length / APART)));
      const phase = (this.phases.get(drawn.key) ?? Math.random()) + (passed_s * pace(edge.rate)) / APART;
      this.phases.set(drawn.key, phase % 1);
      const first = (phase % 1) / number;
      const key = `${edge.kind}|${force}`;
      if (!lots.has(key)) lots.set(key, { kind: edge.kind, force, dots: [] });
      const { dots } = lots.get(key);
      for (let index = 0; index < number; index += 1) {
        const part = first + index / number;
        along(drawn.points, part, head);
        along(drawn.points, part - LONG / Math.max(24, length), tail);
        const x = (head[0] - camera.x) * camera.zoom;
        const y = (head[1] - camera.y) * camera.zoom;
        if (x > -9 && y > -9 && x < painter.width + 9 && y < painter.height + 9) {
          dots.push(x, y, (tail[0] - camera.x) * camera.zoom, (tail[1] - camera.y) * camera.zoom);
        }
      }
    }
    const close = isClose(camera);
    const crowd = scene.edges.length > 60 && scene.looked.size === 0;
    context.lineCap = "round";
    context.lineWidth = crowd ? 1.8 : Math.min(3.4, 2.2 + camera.zoom);
    const sorted = [...lots.values()].sort((one, other) => one.force - other.force);
    for (const { kind, force, dots } of sorted) {
      if (close && force === 1) this.hide(painter, scene);
      context.globalAlpha = Math.min(1, force + 0.2);
      context.strokeStyle = colours[kind];
      // One by one: to raster a path costs as much as the box around it is large.
      for (let index = 0; index < dots.length; index += 4) {
        context.beginPath();
        context.moveTo(dots[index], dots[index + 1]);
        context.lineTo(dots[index + 2], dots[index + 3]);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    if (close && sorted.every(({ force }) => force < 1)) this.hide(painter, scene);
    return any;
  }

  /** Close by, what moves passes behind the cells, as its lines do. */
  hide(painter, scene) {
    const { camera, places } = scene;
    const seen = visible(painter, camera);
    for (const group of places.groups) {
      if (!overlaps(group, seen)) continue;
      for (const cell of group.cells) {
        painter.context.clearRect(
          (cell.x - camera.x) * camera.zoom,
          (cell.y - camera.y) * camera.zoom,
          CELL_WIDTH * camera.zoom,
          CELL_HEIGHT * camera.zoom,
        );
      }
    }
  }

  spread(painter, scene, passed_s) {
    const { context } = painter;
    const { camera, colours, places } = scene;
    for (const ring of this.rings) ring.age += passed_s;
    this.rings = this.rings.filter((ring) => ring.age < RING_S && places.cells.has(ring.id));
    for (const ring of this.rings) {
      const cell = places.cells.get(ring.id);
      const part = ring.age / RING_S;
      const wider = 2 + 10 * part * Math.min(1, 0.3 + camera.zoom);
      context.globalAlpha = (1 - part) * 0.9;
      context.strokeStyle = colours[ring.state];
      context.lineWidth = 2;
      context.beginPath();
      context.roundRect(
        (cell.x - camera.x) * camera.zoom - wider,
        (cell.y - camera.y) * camera.zoom - wider,
        CELL_WIDTH * camera.zoom + 2 * wider,
        CELL_HEIGHT * camera.zoom + 2 * wider,
        8,
      );
      context.stroke();
    }
    context.globalAlpha = 1;
    return this.rings.length > 0;
  }
}

/** Frames around the member at the cursor, the chosen ones, and the one under the pointer. */
function frames(painter, scene) {
  const { colours } = scene;
  if (scene.hovered !== null) frame(painter, scene, scene.hovered, colours.muted, 1.5, "");
  if (scene.focused && scene.cursor !== null && scene.cursor !== scene.chosen[0]) {
    frame(painter, scene, scene.cursor, colours.text, 2, "");
  }
  scene.chosen.forEach((id, index) => {
    const letter = scene.chosen.length > 1 ? "AB"[index] : "";
    frame(painter, scene, id, colours.accent, 2.5, letter);
  });
}

function frame(painter, scene, id, colour, width, letter) {
  const { context } = painter;
  const { camera, colours, places } = scene;
  const cell = places.cells.get(id);
  if (cell === undefined) return;
  const x = (cell.x - camera.x) * camera.zoom;
  const y = (cell.y - camera.y) * camera.zoom;
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.roundRect(
    x - 3,
    y - 3,
    CELL_WIDTH * camera.zoom + 6,
    CELL_HEIGHT * camera.zoom + 6,
    Math.min(9, 6 * camera.zoom + 3),
  );
  context.stroke();
  if (letter !== "") {
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x - 2, y - 2, 9, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = colours.canvas;
    context.font = `700 11px ${SANS}`;
    context.textAlign = "center";
    context.fillText(letter, x - 2, y - 1.5);
    context.textAlign = "left";
  }
}
