/** Elements from values. Text goes in as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `values`: `class`, `text`, `title`, `on` (event to function), `data` (name to value);
 * everything else is an attribute, left out where it is null or false.
 */
export function el(tag, values = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === false || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") {
      for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    } else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A drawing of one path in a field of 16 by 16, which says nothing to who does not see it. */
export function icon(path, className = "glyph") {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("class", className);
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}

/** Set a text and its title only where they differ: nothing flickers, no selection is lost. */
export function write(element, text, title) {
  if (element.textContent !== text) element.textContent = text;
  if (title !== undefined && element.title !== title) element.title = title;
}

/** Set an attribute, or take it away for null. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Bring the children of `parent` in line with `items`: a child that has its item's key stays and is
 * updated, so that focus and selections stay too.
 */
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map();
  for (const child of parent.children) known.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    known.delete(key);
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

/** The element with this id. */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}

/** Calls a function at most once in so many milliseconds, and a last time after the last call. */
export function seldom(act, interval_ms) {
  let last = -Infinity;
  let timer = null;
  return () => {
    if (timer !== null) return;
    const wait = Math.max(0, last + interval_ms - performance.now());
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      act();
    }, wait);
  };
}
