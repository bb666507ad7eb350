/** Which part of the map is seen, and how large. Pure: each function returns another camera. */

export const MIN_ZOOM = 0.02;
export const MAX_ZOOM = 4;

/** Pixels kept free around what a camera is fitted to; below stand the legend and the buttons. */
const MARGIN = 20;
const BELOW = 54;

function roomOf(width, height) {
  return { width: Math.max(50, width - 2 * MARGIN), height: Math.max(50, height - MARGIN - BELOW) };
}

/** How many times as wide as high the part of a picture is to which a camera is fitted. */
export function aspectOf(width, height) {
  const room = roomOf(width, height);
  return room.width / room.height;
}

/** A camera shows the map's point (`x`, `y`) at the top left of the picture. */
export function fitted(box, width, height, largest = 1.25) {
  const room = roomOf(width, height);
  const wide = Math.max(1, box.right - box.left);
  const high = Math.max(1, box.bottom - box.top);
  const zoom = clamp(Math.min(room.width / wide, room.height / high, largest));
  return {
    zoom,
    x: box.left + wide / 2 - width / 2 / zoom,
    y: box.top + high / 2 - (MARGIN + room.height / 2) / zoom,
  };
}

/** Zoomed by `factor`; the point of the picture (`px`, `py`) stays where it is. */
export function zoomed(camera, factor, px, py) {
  const zoom = clamp(camera.zoom * factor);
  return {
    zoom,
    x: camera.x + px / camera.zoom - px / zoom,
    y: camera.y + py / camera.zoom - py / zoom,
  };
}

/** Moved by pixels of the picture. */
export function moved(camera, dx, dy) {
  return { ...camera, x: camera.x - dx / camera.zoom, y: camera.y - dy / camera.zoom };
}

/** Moved just so far that a box of the map is seen in a picture of this size. */
export function showing(camera, box, width, height) {
  const margin = MARGIN / camera.zoom;
  const seen = { width: width / camera.zoom, height: height / camera.zoom };
  const into = (start, size, low, high) => {
    if (low - margin < start) return low - margin;
    if (high + margin > start + size) return high + margin - size;
    return start;
  };
  return {
    zoom: camera.zoom,
    x: into(camera.x, seen.width, box.left, box.right),
    y: into(camera.y, seen.height, box.top, box.bottom),
  };
}

/** Kept near a map of this size: some of it is always seen. */
export function held(camera, map, width, height) {
  const into = (start, seen, size) => Math.min(Math.max(start, -0.7 * seen), size - 0.3 * seen);
  return {
    zoom: camera.zoom,
    x: into(camera.x, width / camera.zoom, map.width),
    y: into(camera.y, height / camera.zoom, map.height),
  };
}

/** Between two cameras, `part` of 0 to 1 of the way. */
export function between(one, other, part) {
  const zoom = one.zoom * (other.zoom / one.zoom) ** part;
  // The middle moves in a straight line only if it follows the zoom.
  const way = one.zoom === other.zoom ? part : (1 / zoom - 1 / one.zoom) / (1 / other.zoom - 1 / one.zoom);
  return { zoom, x: one.x + (other.x - one.x) * way, y: one.y + (other.y - one.y) * way };
}

function clamp(zoom) {
  return Math.min(MAX_ZOOM, Math.max(MIN_ZOOM, zoom));
}
