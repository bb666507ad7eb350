/** Says what happened to who hears the page: a few lines at once, and no flood. */

import { summary } from "../model/happenings.js";
import { shown } from "../model/text.js";
import { byId } from "./dom.js";

/** Milliseconds between two announcements: about as long as one takes to be read. */
const APART_MS = 5000;

export class Announcer {
  constructor() {
    this.element = byId("said");
    this.lines = [];
    this.last = -Infinity;
    this.timer = null;
  }

  /** Say this line soon. */
  add(line) {
    this.lines.push(line);
    if (this.timer === null) {
      const wait = Math.max(400, this.last + APART_MS - performance.now());
      this.timer = setTimeout(() => this.speak(), wait);
    }
  }

  /** Say this now: an answer to what somebody did. */
  say(text) {
    this.element.textContent = shown(text);
  }

  speak() {
    this.timer = null;
    this.last = performance.now();
    this.say(summary(this.lines));
    this.lines = [];
  }
}
