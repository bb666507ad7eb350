/** The map at rest: cards, cells, edges. Drawn again when something changed or the camera moved. */

import { CELL_HEIGHT, CELL_WIDTH } from "../model/places.js";
import { along, STEPS, thickness } from "../model/curves.js";
import { isGone, STATES } from "../model/states.js";
import { shortName, shown } from "../model/text.js";
import * as units from "../model/units.js";
import { GLYPHS } from "../parts/glyphs.js";

export const SANS =
  '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif';

/** Pixels of a cell's height from which it has room for a sign, for one line, for two. */
const ROOM = { sign: 15, line: 24, lines: 36 };

const PATHS = Object.fromEntries(
  Object.entries(GLYPHS).map(([state, path]) => [state, new Path2D(path)]),
);

/** How full a cell's colour is: calm for what is well, strong for what is not. */
const FILL = { ready: 0.28, accused: 0.28, unavailable: 0.22 };

const DIM = 0.16;

/** Edges that are drawn one by one; more are summed by the groups of their ends. */
export const MAX_EDGES = 700;

/** What a picture needs: canvas, camera, size, and what is to be seen. */
export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.widths = new Map();
  }

  /** Give the canvas this size in pixels of the page. */
  resize(width, height, density) {
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    this.density = density;
    this.width = width;
    this.height = height;
  }

  /** Coordinates of the page from here on. */
  begin() {
    const { context } = this;
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.globalAlpha = 1;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.direction = "ltr";
  }

  /** A text cut to a width, measured once. */
  cut(text, font, width) {
    if (width < 8) return "";
    const key = `${font}|${Math.round(width)}|${text}`;
    const known = this.widths.get(key);
    if (known !== undefined) return known;
    const { context } = this;
    context.font = font;
    let cut = text;
    if (context.measureText(text).width > width) {
      let low = 0;
      let high = text.length;
      while (low < high) {
        const middle = Math.ceil((low + high) / 2);
        if (context.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
        else high = middle - 1;
      }
      cut = low === 0 ? "" : `${text.slice(0, low)}…`;
    }
    if (this.widths.size > 20000) this.widths.clear();
    this.widths.set(key, cut);
    return cut;
  }

  write(text, x, y, width, font, colour) {
    const cut = this.cut(text, font, width);
    if (cut === "") return;
    this.context.font = font;
    this.context.fillStyle = colour;
    this.context.fillText(cut, x, y);
  }
}

/** The whole picture. */
export function paintMap(painter, scene) {
  painter.begin();
  const seen = visible(painter, scene.camera);
  for (const group of scene.places.groups) {
    if (overlaps(group, seen)) paintCard(painter, scene, group);
  }
  // Close by, lines pass behind cells, whose words must be read. From afar cells are all there is to
  // see, and lines pass in front.
  const close = isClose(scene.camera);
  const behind = close ? scene.edges.filter((drawn) => !isLooked(scene, drawn)) : [];
  paintLines(painter, scene, behind);
  paintCells(painter, scene, seen);
  paintLines(painter, scene, close ? scene.edges.filter((drawn) => isLooked(scene, drawn)) : scene.edges);
  if (scene.places.storage !== null) paintStorage(painter, scene);
  paintLabels(painter, scene);
}

/** Whether cells are large enough to have words. */
export function isClose(camera) {
  return CELL_HEIGHT * camera.zoom >= ROOM.line;
}

/** Whether an edge begins or ends at a member that is looked at. */
export function isLooked(scene, drawn) {
  return drawn.ends.some((id) => scene.looked.has(id));
}

/** The part of the map that is seen. */
export function visible(painter, camera) {
  return {
    x: camera.x,
    y: camera.y,
    width: painter.width / camera.zoom,
    height: painter.height / camera.zoom,
  };
}

export function overlaps(one, other) {
  return (
    one.x < other.x + other.width &&
    other.x < one.x + one.width &&
    one.y < other.y + other.height &&
    other.y < one.y + one.height
  );
}

function paintCard(painter, scene, group) {
  const { context } = painter;
  const { camera, colours, places } = scene;
  const { zoom } = camera;
  const x = (group.x - camera.x) * zoom;
  const y = (group.y - camera.y) * zoom;
  const width = group.width * zoom;
  const height = group.height * zoom;
  context.fillStyle = colours.card;
  context.lineWidth = 1;
  context.strokeStyle = group.key === scene.hoveredGroup ? colours.muted : colours["card-line"];
  if (group.head * zoom < 16) {
    context.fillRect(Math.round(x), Math.round(y), width, height);
    context.strokeRect(Math.round(x) + 0.5, Math.round(y) + 0.5, Math.floor(width), Math.floor(height));
  } else {
    context.beginPath();
    context.roundRect(x, y, width, height, Math.min(10, 10 * zoom + 2));
    context.fill();
    context.stroke();
  }

  const head = group.head * zoom;
  const size = Math.min(13.5, Math.max(9, head * 0.33));
  const pad = Math.max(3, 12 * zoom);
  if (width < 42 || head < 8) return;
  const byHost = places.by === "host";
  const name = shown(group.key) || (byHost ? "unknown host" : "no model");
  const number = String(group.members);
  const font = `600 ${size}px ${SANS}`;
  const plain = `${Math.max(9, size - 1)}px ${SANS}`;
  const below = head > 30 && group.only !== null && group.only !== "";
  const line = y + (below ? head * 0.36 : head * 0.52);
  context.font = plain;
  const room = width > 90 ? context.measureText(number).width + 6 : 0;
  if (room > 0) painter.write(number, x + width - pad - room + 6, line, room, plain, colours.muted);
  const far = head < 16 && group.key !== scene.hoveredGroup;
  painter.write(name, x + pad, line, width - 2 * pad - room, font, far ? colours.muted : colours.text);
  if (below) {
    const only = byHost ? shortName(group.only) : shown(group.only);
    painter.write(only, x + pad, y + head * 0.7, width - 2 * pad, plain, colours.muted);
  }
  for (const section of group.sections) {
    const high = Math.min(section.height, 22) * zoom;
    const rough = section.height * zoom;
    if ((section.beside ? high : rough) < 8.5) return;
    const text = byHost ? shortName(section.part) || "no model" : shown(section.part) || "no rank";
    painter.write(
      text,
      (section.x - camera.x) * zoom,
      (section.y + section.height * (section.beside || places.dense ? 0.5 : 0.38) - camera.y) * zoom,
      section.beside ? 60 * zoom : width - 2 * pad,
      `${Math.min(12, Math.max(9, rough * 0.55))}px ${SANS}`,
      colours.muted,
    );
  }
}

/** Cells in lots of one state: one path each, so that thousands cost little. */
function paintCells(painter, scene, seen) {
  const { context } = painter;
  const { camera, colours, places, members, matching } = scene;
  const { zoom } = camera;
  const lots = new Map();
  for (const group of places.groups) {
    if (!overlaps(group, seen)) continue;
    for (const cell of group.cells) {
      const member = members.get(cell.id);
      if (member === undefined) continue;
      const clear = matching === null || matching.has(cell.id);
      const key = `${member.state}|${clear}`;
      if (!lots.has(key)) lots.set(key, { state: member.state, clear, cells: [] });
      lots.get(key).cells.push([cell, member]);
    }
  }
  const width = CELL_WIDTH * zoom;
  const height = CELL_HEIGHT * zoom;
  const radius = Math.min(6, 6 * zoom + 1);
  for (const { state, clear, cells } of lots.values()) {
    context.globalAlpha = clear ? 1 : DIM;
    const alpha = context.globalAlpha;
    const colour = colours[state];
    const calm = !STATES.get(state).wrong && state !== "loading";
    const line = alpha * (calm ? (height > 20 ? 0.6 : 0.3) : 1);
    context.strokeStyle = colour;
    context.lineWidth = height > 20 ? 1.2 : 1;
    const fills = [[alpha, colours.cell]];
    if (FILL[state] !== undefined) fills.push([alpha * FILL[state], colour]);
    const dashes = isGone(state) ? [3, 2.5] : [];
    const boxes = cells.map(([cell]) => [(cell.x - camera.x) * zoom, (cell.y - camera.y) * zoom]);
    if (height > 20) rounded(context, boxes, width, height, radius, fills, line, dashes);
    else plain(context, boxes, width, height, fills, line, dashes);
    context.setLineDash([]);
    context.globalAlpha = alpha;
    for (const [cell, member] of cells) {
      const x = (cell.x - camera.x) * zoom;
      const y = (cell.y - camera.y) * zoom;
      // What is in motion is drawn by `motion.js`, text included.
      if (!member.loads || state !== "loading") cellSigns(painter, scene, member, x, y, width, height);
    }
  }
  context.globalAlpha = 1;
}

/** Boxes with round corners, all of them one path. */
function rounded(context, boxes, width, height, radius, fills, line, dashes) {
  context.beginPath();
  for (const [x, y] of boxes) context.roundRect(x, y, width, height, radius);
  for (const [alpha, colour] of fills) {
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    context.fill();
  }
  context.globalAlpha = line;
  context.setLineDash(dashes);
  context.stroke();
}

/** Small boxes on whole pixels. Thousands of them cost a quarter of what round corners cost. */
function plain(context, boxes, width, height, fills, line, dashes) {
  const wide = Math.max(1, Math.floor(width));
  const high = Math.max(1, Math.floor(height));
  for (const [alpha, colour] of fills) {
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    for (const [x, y] of boxes) context.fillRect(Math.round(x), Math.round(y), wide, high);
  }
  if (line < 0.5) return;
  context.globalAlpha = line;
  context.setLineDash(dashes);
  for (const [x, y] of boxes) {
    context.strokeRect(Math.round(x) + 0.5, Math.round(y) + 0.5, wide - 1, high - 1);
  }
}

/** The sign and the words of a cell, as far as there is room. */
export function cellSigns(painter, scene, member, x, y, width, height) {
  const { context } = painter;
  const { colours } = scene;
  const { state } = member;
  const wrong = STATES.get(state).wrong;
  const pad = Math.min(9, width * 0.1);
  if (height >= ROOM.line) {
    const size = Math.min(13, height * 0.26);
    const two = height >= ROOM.lines;
    const sign = Math.min(15, height * 0.3);
    const line = two ? y + height * 0.32 : y + height * 0.5;
    const free = width - 2 * pad;
    painter.write(
      titleOf(member, scene.places.by),
      x + pad,
      line,
      free - sign - 4,
      `600 ${size}px ${SANS}`,
      member.live ? colours.text : colours.muted,
    );
    glyph(context, state, x + width - pad - sign, line - sign / 2, sign, colours[state]);
    if (two) {
      const font = `${Math.min(12, height * 0.225)}px ${SANS}`;
      const text = secondLine(member).find((one) => painter.cut(one, font, free) === one) ?? state;
      const loud = wrong ? colours[state] : state === "loading" ? colours.text : colours.muted;
      painter.write(text, x + pad, y + height * 0.7, free, font, loud);
    }
  } else if (height >= (wrong ? 6 : ROOM.sign)) {
    const sign = Math.min(14, height * 0.86);
    glyph(context, state, x + (width - sign) / 2, y + (height - sign) / 2, sign, colours[state]);
  }
}

/** What tells a member from others of its card. */
function titleOf(member, by) {
  if (by === "model") return shown(member.host) || shown(member.id);
  return member.rank || shown(member.main.role) || "member";
}

/** What a cell says below its title, the longest first: the first that fits is written. */
function secondLine(member) {
  if (member.state === "loading") {
    if (member.rate === 0 && member.awaits.length > 0) return ["waits"];
    if (member.total === 0) return ["starts"];
    const done = units.percent(member.held, member.total);
    return member.rate > 0 ? [`${done}  ${units.rate(member.rate)}`, done] : [done];
  }
  if (member.state === "ready") return [units.bytes(member.bytes), ""];
  return [member.state];
}

export function glyph(context, state, x, y, size, colour) {
  context.save();
  context.translate(x, y);
  context.scale(size / 16, size / 16);
  context.lineWidth = size < 11 ? 2.4 : 1.9;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.strokeStyle = colour;
  context.stroke(PATHS[state]);
  context.restore();
}

function paintStorage(painter, scene) {
  const { context } = painter;
  const { camera, colours, places, reads } = scene;
  const { zoom } = camera;
  const box = places.storage;
  const x = (box.x - camera.x) * zoom;
  const y = (box.y - camera.y) * zoom;
  const size = box.width * zoom;
  const wide = size * 0.72;
  const left = x + (size - wide) / 2;
  const flat = size * 0.12;
  const top = y + flat + size * 0.04;
  const bottom = y + size * 0.74;
  context.beginPath();
  context.ellipse(left + wide / 2, top, wide / 2, flat, 0, 0, 2 * Math.PI);
  context.moveTo(left, top);
  context.lineTo(left, bottom);
  context.ellipse(left + wide / 2, bottom, wide / 2, flat, 0, Math.PI, 0, true);
  context.lineTo(left + wide, top);
  context.fillStyle = colours.card;
  context.fill();
  context.globalAlpha = reads.many > 0 ? 1 : 0.55;
  context.strokeStyle = colours.storage;
  context.lineWidth = Math.max(1.2, Math.min(2, size / 50));
  context.stroke();
  context.globalAlpha = 1;
  if (size < 26) return;
  const font = Math.min(13, Math.max(9.5, size * 0.14));
  context.textAlign = "center";
  painter.write("storage", x + size / 2, bottom + flat + font, size + 30, `600 ${font}px ${SANS}`, colours.text);
  if (reads.many > 0) {
    painter.write(
      units.rate(reads.rate),
      x + size / 2,
      bottom + flat + 2.2 * font,
      size + 40,
      `${Math.max(9, font - 1)}px ${SANS}`,
      colours.muted,
    );
  }
  context.textAlign = "left";
}

/** How strongly an edge is drawn: those of the member looked at stand out. */
export function strength(scene, drawn) {
  if (scene.looked.size > 0) {
    return isLooked(scene, drawn) ? 1 : 0.1;
  }
  if (scene.matching === null) return 0.75;
  return drawn.ends.some((id) => scene.matching.has(id)) ? 0.75 : 0.06;
}

function paintLines(painter, scene, edges) {
  const { context } = painter;
  const { camera, colours } = scene;
  // Of many lines each is fainter, or they would be all there is to see.
  const faint = scene.looked.size > 0 ? 1 : Math.min(1, Math.max(0.5, 40 / scene.edges.length));
  context.lineCap = "round";
  for (const drawn of edges) {
    const force = strength(scene, drawn) * faint;
    context.globalAlpha = force * (drawn.edge.kind === "wait" ? 0.9 : 0.55);
    context.strokeStyle = colours[drawn.edge.kind];
    context.lineWidth = thickness(drawn.edge.rate) * (force === 1 ? 1.25 : force < 0.4 ? 0.7 : 1);
    context.setLineDash(drawn.edge.kind === "wait" ? [0.1, 5] : []);
    if (drawn.edge.kind === "wait") context.lineWidth = 2;
    context.beginPath();
    for (let step = 0; step <= STEPS; step += 1) {
      const x = (drawn.points[2 * step] - camera.x) * camera.zoom;
      const y = (drawn.points[2 * step + 1] - camera.y) * camera.zoom;
      if (step === 0) context.moveTo(x, y);
      else context.lineTo(x, y);
    }
    context.stroke();
    context.setLineDash([]);
    arrow(context, drawn.points, camera, colours[drawn.edge.kind], camera.zoom);
    if (drawn.unknown) unknownEnd(painter, drawn, camera, colours);
  }
  context.globalAlpha = 1;
}

/** Rates on their edges: of the member looked at, or all where they are few. */
function paintLabels(painter, scene) {
  const { context } = painter;
  const many = scene.edges.length;
  const written = [];
  for (const drawn of scene.edges) {
    if (labelled(scene, drawn, many)) edgeLabel(painter, scene, drawn, written);
  }
  context.globalAlpha = 1;
}

function labelled(scene, drawn, many) {
  if (drawn.edge.rate <= 0) return false;
  if (scene.looked.size > 0) return isLooked(scene, drawn);
  return many <= 6 && scene.camera.zoom > 0.45 && strength(scene, drawn) > 0.5;
}

function arrow(context, points, camera, colour, zoom) {
  const end = 2 * STEPS;
  const x = (points[end] - camera.x) * camera.zoom;
  const y = (points[end + 1] - camera.y) * camera.zoom;
  const back = end - 2;
  const angle = Math.atan2(points[end + 1] - points[back + 1], points[end] - points[back]);
  const size = Math.min(7, Math.max(3.5, 9 * zoom));
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - size * Math.cos(angle - 0.45), y - size * Math.sin(angle - 0.45));
  context.lineTo(x - size * Math.cos(angle + 0.45), y - size * Math.sin(angle + 0.45));
  context.fill();
}

function unknownEnd(painter, drawn, camera, colours) {
  const x = (drawn.points[0] - camera.x) * camera.zoom;
  const y = (drawn.points[1] - camera.y) * camera.zoom;
  const size = Math.min(12, Math.max(6, 14 * camera.zoom));
  glyph(painter.context, "suspect", x - size / 2, y - size - 1, size, colours.muted);
}

/** Where on its edge a rate may stand: in the middle, unless another one is there. */
const STANDS = [0.5, 0.38, 0.62, 0.26, 0.74];

function edgeLabel(painter, scene, drawn, written) {
  const { context } = painter;
  const { camera, colours } = scene;
  const many = drawn.edge.many > 1 ? `${drawn.edge.many}x  ` : "";
  const text = `${many}${units.rate(drawn.edge.rate)}`;
  const font = `600 11px ${SANS}`;
  context.font = font;
  const width = context.measureText(text).width + 12;
  const boxes = STANDS.map((part) => {
    const [x, y] = along(drawn.points, part, [0, 0]);
    return {
      x: (x - camera.x) * camera.zoom - width / 2,
      y: (y - camera.y) * camera.zoom - 9,
      width,
      height: 18,
    };
  });
  const box = boxes.find((one) => !written.some((other) => overlaps(one, other))) ?? boxes[0];
  written.push(box);
  context.globalAlpha = 0.94;
  context.beginPath();
  context.roundRect(box.x, box.y, width, 18, 9);
  context.fillStyle = colours.canvas;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = colours[drawn.edge.kind];
  context.lineWidth = 1;
  context.stroke();
  painter.write(text, box.x + 6, box.y + 9.5, width, font, colours.text);
}
