/** The form of edges: curves from the border of one box to that of another, as points. */

/** Points of a curve. Enough that no corner is seen, and few enough for thousands of curves. */
export const STEPS = 16;

/**
 * A curve between two boxes `{x, y, width, height}` as a `Float64Array` of x and y of `STEPS + 1`
 * points. A curve from one box to another and the one back bend to different sides.
 */
export function curve(from, to) {
  const start = { x: from.x + from.width / 2, y: from.y + from.height / 2 };
  const end = { x: to.x + to.width / 2, y: to.y + to.height / 2 };
  const dx = end.x - start.x;
  const dy = end.y - start.y;
  const length = Math.hypot(dx, dy) || 1;
  const bend = Math.min(0.16 * length, 260) + 14;
  const middle = {
    x: (start.x + end.x) / 2 - (dy / length) * bend,
    y: (start.y + end.y) / 2 + (dx / length) * bend,
  };
  const at = (part) => {
    const rest = 1 - part;
    return [
      rest * rest * start.x + 2 * rest * part * middle.x + part * part * end.x,
      rest * rest * start.y + 2 * rest * part * middle.y + part * part * end.y,
    ];
  };
  const first = leaves(from, at, 0, 1);
  const last = leaves(to, at, 1, 0);
  const points = new Float64Array(2 * (STEPS + 1));
  for (let step = 0; step <= STEPS; step += 1) {
    const [x, y] = at(first + ((last - first) * step) / STEPS);
    points[2 * step] = x;
    points[2 * step + 1] = y;
  }
  return points;
}

/** Where a curve crosses the border of a box: the part of its way, found by halving. */
function leaves(box, at, inside, outside) {
  let [near, far] = [inside, outside];
  for (let round = 0; round < 8; round += 1) {
    const middle = (near + far) / 2;
    const [x, y] = at(middle);
    const within =
      x >= box.x - 2 && x <= box.x + box.width + 2 && y >= box.y - 2 && y <= box.y + box.height + 2;
    if (within) near = middle;
    else far = middle;
  }
  return Math.abs(far - inside) > 0.9 ? inside : far;
}

/** The point after `part` (0 to 1) of a curve, into `out` (`[x, y]`). */
export function along(points, part, out) {
  const place = Math.min(0.99999, Math.max(0, part)) * STEPS;
  const step = Math.floor(place);
  const rest = place - step;
  const index = 2 * step;
  out[0] = points[index] + (points[index + 2] - points[index]) * rest;
  out[1] = points[index + 1] + (points[index + 3] - points[index + 1]) * rest;
  return out;
}

/** How fast something moves along an edge that carries `rate` bytes/s, in pixels a second. */
export function pace(rate) {
  return rate <= 0 ? 0 : 24 + 14 * Math.max(0, Math.log10(rate) - 4);
}

/** How thick an edge with this rate is, in pixels. */
export function thickness(rate) {
  return rate <= 0 ? 1 : 1 + 0.35 * Math.max(0, Math.log10(rate) - 5);
}
