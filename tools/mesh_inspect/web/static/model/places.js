/**
 * Where everything stands on the map, in units of the map (one is a pixel at a zoom of 1): cards of
 * groups (hosts or models), in each the cells of its members. Pure, and the same for the same
 * members, so nothing jumps when something else changes.
 */

import { orderOf } from "./mesh.js";

export const CELL_WIDTH = 96;
export const CELL_HEIGHT = 52;

const GAP = 8;
const PAD = 12;
/** Room for a rank beside its members. */
const BESIDE = 64;
const BETWEEN = 18;
/** The head of a card: two lines; on a big map one that can be read from afar. */
const HEAD = { roomy: 46, dense: 62 };
/** The line above the members of one model, or of one rank. */
const LABEL = { roomy: 20, dense: 46 };

/** From how many members on a map is looked at from afar first. */
const MANY = 150;

/**
 * Places of `members` (any iterable), grouped `by` "host" or "model", for a picture that is `aspect`
 * times as wide as high.
 */
export function placesOf(members, { by, aspect, withStorage }) {
  const sorted = [...members].sort(orderOf(by));
  const dense = sorted.length > MANY;
  const groups = grouped(sorted, by).map((group) => measured(group, by, dense));
  const size = shelve(groups, Math.max(0.2, aspect));
  const storage = withStorage ? storageBeside(groups, size) : null;
  const cells = new Map();
  const groupOf = new Map();
  for (const group of groups) {
    for (const cell of group.cells) {
      cell.x += group.x;
      cell.y += group.y;
      cells.set(cell.id, cell);
      groupOf.set(cell.id, group);
    }
    for (const section of group.sections) {
      section.x += group.x;
      section.y += group.y;
    }
  }
  return {
    by,
    dense,
    groups,
    groupByKey: new Map(groups.map((group) => [group.key, group])),
    cells,
    groupOf,
    storage,
    width: size.width,
    height: size.height,
  };
}

function grouped(sorted, by) {
  const groups = new Map();
  for (const member of sorted) {
    const key = by === "model" ? member.model : member.host;
    const part = by === "model" ? member.rank : member.model;
    if (!groups.has(key)) groups.set(key, { key, parts: new Map(), members: 0 });
    const group = groups.get(key);
    group.members += 1;
    if (!group.parts.has(part)) group.parts.set(part, []);
    group.parts.get(part).push(member);
  }
  return [...groups.values()];
}

function columnsFor(count) {
  if (count <= 2) return 2;
  if (count <= 4) return count;
  if (count <= 8) return 4;
  return Math.max(4, Math.ceil(Math.sqrt(count * 0.8)));
}

/** The card of a group: its size, and its cells and sections in coordinates of the card. */
function measured(group, by, dense) {
  const largest = Math.max(...[...group.parts.values()].map((part) => part.length));
  const labelled = group.parts.size > 1;
  // Ranks with few members each are the lines of a table: a rank that nobody has is a gap.
  const table = by === "model" && labelled && largest <= 12;
  const columns = table ? largest : columnsFor(by === "model" ? group.members / 2 : largest);
  const size = dense ? "dense" : "roomy";
  const head = HEAD[size];
  const left = table ? PAD + BESIDE : PAD;
  const cells = [];
  const sections = [];
  let y = head;
  for (const [part, members] of group.parts) {
    if (labelled) {
      sections.push({ part, x: PAD, y, height: table ? CELL_HEIGHT : LABEL[size], beside: table });
      if (!table) y += LABEL[size];
    }
    members.forEach((member, index) => {
      cells.push({
        id: member.id,
        x: left + (index % columns) * (CELL_WIDTH + GAP),
        y: y + Math.floor(index / columns) * (CELL_HEIGHT + GAP),
      });
    });
    y += Math.ceil(members.length / columns) * (CELL_HEIGHT + GAP);
  }
  return {
    key: group.key,
    members: group.members,
    only: labelled ? null : [...group.parts.keys()][0],
    head,
    cells,
    sections,
    x: 0,
    y: 0,
    width: left + PAD + columns * CELL_WIDTH + (columns - 1) * GAP,
    height: y - GAP + PAD,
  };
}

/** Put cards on shelves of the width with which all of them can be shown largest. */
function shelve(groups, aspect) {
  const area = groups.reduce(
    (sum, group) => sum + (group.width + BETWEEN) * (group.height + BETWEEN),
    0,
  );
  const widest = Math.max(0, ...groups.map((group) => group.width));
  let best = null;
  for (let stretch = 0.7; stretch <= 1.8; stretch += 0.05) {
    const limit = Math.max(widest, Math.sqrt(area * aspect) * stretch);
    const size = rows(groups, limit, () => {});
    const zoom = Math.min(aspect / size.width, 1 / size.height);
    if (best === null || zoom > best.zoom * 1.001) best = { limit, zoom };
  }
  if (best === null) return { width: 1, height: 1 };
  return rows(groups, best.limit, (group, x, y) => {
    group.x = x;
    group.y = y;
  });
}

function rows(groups, limit, put) {
  let x = 0;
  let y = 0;
  let high = 0;
  let width = 0;
  for (const group of groups) {
    if (x > 0 && x + group.width > limit) {
      x = 0;
      y += high + BETWEEN;
      high = 0;
    }
    put(group, x, y);
    width = Math.max(width, x + group.width);
    high = Math.max(high, group.height);
    x += group.width + BETWEEN;
  }
  return { width, height: y + high };
}

/** A place for storage at the left, large enough to be seen when the whole map is. */
function storageBeside(groups, size) {
  const side = Math.max(84, Math.min(size.width, size.height) * 0.11);
  const room = side + 3 * BETWEEN;
  for (const group of groups) group.x += room;
  const place = { x: 0, y: Math.max(0, (size.height - side) / 2), width: side, height: side };
  size.width += room;
  size.height = Math.max(size.height, side);
  return place;
}

/** The member and the group at a point of the map; null where there is none. */
export function at(places, x, y) {
  for (const group of places.groups) {
    const inside =
      x >= group.x && x <= group.x + group.width && y >= group.y && y <= group.y + group.height;
    if (!inside) continue;
    const cell = group.cells.find(
      (one) => x >= one.x && x <= one.x + CELL_WIDTH && y >= one.y && y <= one.y + CELL_HEIGHT,
    );
    return { group, id: cell === undefined ? null : cell.id };
  }
  return { group: null, id: null };
}

/** The nearest cell in a direction (`dx`, `dy` of -1, 0, 1), null at the border. */
export function neighbour(places, id, dx, dy) {
  const from = places.cells.get(id);
  let best = null;
  let least = Infinity;
  for (const cell of places.cells.values()) {
    const along = (cell.x - from.x) * dx + (cell.y - from.y) * dy;
    const aside = Math.abs((cell.x - from.x) * dy) + Math.abs((cell.y - from.y) * dx);
    const far = along + 3 * aside;
    if (along > 1 && far < least) {
      least = far;
      best = cell;
    }
  }
  return best === null ? null : best.id;
}

/** The smallest rectangle around these members; null without any. */
export function around(places, ids) {
  let box = null;
  for (const id of ids) {
    const cell = places.cells.get(id);
    if (cell === undefined) continue;
    const right = cell.x + CELL_WIDTH;
    const bottom = cell.y + CELL_HEIGHT;
    box =
      box === null
        ? { left: cell.x, top: cell.y, right, bottom }
        : {
            left: Math.min(box.left, cell.x),
            top: Math.min(box.top, cell.y),
            right: Math.max(box.right, right),
            bottom: Math.max(box.bottom, bottom),
          };
  }
  return box;
}
