/** Edges with their curves, ready to be drawn: found again when members or places change. */

import { curve, STEPS } from "../model/curves.js";
import { edgesOf, summed } from "../model/edges.js";
import { CELL_HEIGHT, CELL_WIDTH } from "../model/places.js";
import { MAX_EDGES } from "./paint.js";

/** Where an edge from a source that nobody knows begins, seen from the cell at its end. */
const UNKNOWN = { x: -34, y: -26 };

/**
 * `{edges, summed, all}`: what to draw, whether that is summed by group, and all edges there are.
 * Those of members in `looked` are always drawn one by one.
 */
export function drawnEdges(members, places, looked) {
  const all = edgesOf(members).filter((edge) => places.cells.has(edge.to));
  const cellOf = (id) => ({ ...places.cells.get(id), width: CELL_WIDTH, height: CELL_HEIGHT });
  if (all.length <= MAX_EDGES) {
    return { edges: drawn(all, places, cellOf, endsOf), summed: false, all };
  }
  const own = all.filter((edge) => looked.has(edge.from) || looked.has(edge.to));
  const groups = summed(all, (id) => places.groupOf.get(id).key).slice(0, MAX_EDGES);
  const edges = [
    ...drawn(groups, places, (key) => places.groupByKey.get(key), () => []),
    ...drawn(own.slice(0, MAX_EDGES), places, cellOf, endsOf),
  ];
  return { edges, summed: true, all };
}

function endsOf(edge) {
  return [edge.from, edge.to].filter((id) => id !== null);
}

function drawn(edges, places, boxOf, ends) {
  const found = [];
  for (const edge of edges) {
    const to = boxOf(edge.to);
    const unknown = edge.kind === "transfer" && edge.from === null;
    const from = startOf(edge, to, places, boxOf, unknown);
    if (from === null || from === to) continue;
    const points = curve(from, to);
    found.push({
      key: `${edge.kind}|${edge.from ?? edge.at}|${edge.to}`,
      edge,
      unknown,
      points,
      length: lengthOf(points),
      ends: ends(edge),
    });
  }
  return found;
}

function startOf(edge, to, places, boxOf, unknown) {
  if (edge.kind === "storage") return places.storage;
  if (unknown) return { x: to.x + UNKNOWN.x, y: to.y + UNKNOWN.y, width: 4, height: 4 };
  return boxOf(edge.from);
}

function lengthOf(points) {
  let length = 0;
  for (let step = 0; step < STEPS; step += 1) {
    const index = 2 * step;
    length += Math.hypot(points[index + 2] - points[index], points[index + 3] - points[index + 1]);
  }
  return length;
}
