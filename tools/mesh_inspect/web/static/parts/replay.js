/** How a recording is played: the bar is there only while one is. */

import * as units from "../model/units.js";
import * as api from "../io/api.js";
import { byId, mark, write } from "./dom.js";
import { SIGNS } from "./glyphs.js";

export class ReplayBar {
  /** `act.failed(error)` is called when the server does not do what was asked. */
  constructor(clock, act) {
    this.clock = clock;
    this.act = act;
    this.replay = null;
    this.held = false;
    this.bar = byId("replay");
    this.seek = byId("seek");
    this.seek.addEventListener("input", () => {
      this.held = true;
      this.tell(Number(this.seek.value));
    });
    this.seek.addEventListener("change", () => {
      this.ask({ at: Number(this.seek.value) }).finally(() => {
        this.held = false;
      });
    });
    byId("play").addEventListener("click", () => this.turn());
    byId("speed").addEventListener("change", (event) => {
      this.ask({ speed: Number(event.target.value) });
    });
    setInterval(() => this.tick(), 250);
  }

  /** Play or pause. */
  turn() {
    if (this.replay !== null) this.ask({ paused: !this.replay.paused });
  }

  async ask(wish) {
    try {
      await api.replay(wish);
    } catch (error) {
      this.act.failed(error);
    }
  }

  show(replay) {
    this.replay = replay;
    this.bar.hidden = replay === null;
    document.body.classList.toggle("replays", replay !== null);
    if (replay === null) return;
    mark(this.seek, "min", String(replay.from));
    mark(this.seek, "max", String(replay.to));
    const play = byId("play");
    play.querySelector("path").setAttribute("d", replay.paused ? SIGNS.play : SIGNS.pause);
    mark(play, "aria-label", replay.paused ? "Play" : "Pause");
    mark(play, "title", `${replay.paused ? "Play" : "Pause"} (p)`);
    this.showSpeed(replay.speed);
    write(byId("replay-from"), units.clockTime(replay.from), units.dateTime(replay.from));
    write(byId("replay-to"), units.clockTime(replay.to), units.dateTime(replay.to));
    this.tick();
  }

  showSpeed(speed) {
    const choice = byId("speed");
    const known = [...choice.options].find((option) => Number(option.value) === speed);
    if (known === undefined) {
      const option = new Option(`${speed}x`, String(speed));
      choice.add(option);
    }
    choice.value = String(speed);
  }

  tick() {
    if (this.replay === null || this.held) return;
    const at = Math.min(this.replay.to, Math.max(this.replay.from, this.clock.now()));
    this.seek.value = String(at);
    this.tell(at);
  }

  tell(at) {
    write(byId("replay-at"), units.dateTime(at));
    mark(this.seek, "aria-valuetext", units.dateTime(at));
    const { from, to } = this.replay;
    const part = to > from ? (100 * (at - from)) / (to - from) : 0;
    this.seek.style.setProperty("--part", `${part.toFixed(2)}%`);
  }
}
