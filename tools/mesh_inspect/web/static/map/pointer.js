/** Mouse, pen and fingers on the map: move, zoom, point, choose. */

/** Pixels that a press may move and still be a click. */
const STEADY = 5;

/**
 * Calls `act.move(dx, dy)`, `act.zoom(factor, x, y)`, `act.point(x, y)` (null: the pointer left),
 * `act.click(x, y, event)` and `act.closer(x, y)` in pixels of the element.
 */
export function listen(element, act) {
  const pressed = new Map();
  let moved = 0;

  const place = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    pressed.set(event.pointerId, place(event));
    if (pressed.size === 1) moved = 0;
  });

  element.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pressed.get(event.pointerId);
    if (before === undefined) {
      if (event.pointerType !== "touch") act.point(now.x, now.y);
      return;
    }
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (pressed.size === 1) {
      if (moved > STEADY) {
        element.classList.add("dragged");
        act.point(null, null);
        act.move(now.x - before.x, now.y - before.y);
      }
      pressed.set(event.pointerId, moved > STEADY ? now : before);
      return;
    }
    const [other] = [...pressed].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const apart = (one) => Math.hypot(one.x - other.x, one.y - other.y);
    const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
    act.zoom(apart(now) / Math.max(1, apart(before)), middle.x, middle.y);
    act.move((now.x - before.x) / 2, (now.y - before.y) / 2);
    pressed.set(event.pointerId, now);
  });

  const release = (event) => {
    if (!pressed.delete(event.pointerId)) return;
    element.classList.remove("dragged");
    if (event.type === "pointerup" && pressed.size === 0 && moved <= STEADY) {
      const { x, y } = place(event);
      act.click(x, y, event);
    }
  };
  element.addEventListener("pointerup", release);
  element.addEventListener("pointercancel", release);
  element.addEventListener("pointerleave", () => act.point(null, null));
  element.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    act.closer(x, y);
  });
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = place(event);
      // Lines and pages, where a wheel counts in them, as pixels.
      const scale = [1, 16, 400][event.deltaMode];
      act.zoom(Math.exp((-event.deltaY * scale * (event.ctrlKey ? 4 : 1)) / 500), x, y);
    },
    { passive: false },
  );
}
