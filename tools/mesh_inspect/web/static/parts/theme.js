/** Dark or light: what the system says, until somebody chooses. */

const KEY = "mesh-inspect.theme";
const NAMES = [
  "canvas",
  "card",
  "card-line",
  "cell",
  "text",
  "muted",
  "accent",
  "ready",
  "loading",
  "alive",
  "unavailable",
  "accused",
  "stalled",
  "suspect",
  "dead",
  "left",
  "transfer",
  "storage",
  "wait",
  "joins",
  "deaths",
  "loads",
  "others",
];

/** What is stored, or null; a browser may allow no storage. */
export function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // The choice lasts as long as the page.
  }
}

export class Theme {
  constructor() {
    this.system = matchMedia("(prefers-color-scheme: light)");
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.changed = [];
    this.colours = {};
    const chosen = remembered(KEY);
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
    this.system.addEventListener("change", () => this.read());
    this.still.addEventListener("change", () => this.read());
    this.read();
  }

  get name() {
    return document.documentElement.dataset.theme ?? (this.system.matches ? "light" : "dark");
  }

  /** Whether nothing shall move that need not. */
  get reduced() {
    return this.still.matches;
  }

  /** The colours, for what is drawn. */
  read() {
    const style = getComputedStyle(document.documentElement);
    for (const name of NAMES) this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    for (const act of this.changed) act();
  }

  turn() {
    const other = this.name === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = other;
    remember(KEY, other);
    this.read();
  }
}
