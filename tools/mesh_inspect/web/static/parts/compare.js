/** Why two members do or do not match: would one feed the other, in both directions. */

import * as api from "../io/api.js";
import { rankLabel } from "../model/mesh.js";
import { shown } from "../model/text.js";
import { byId, el, icon, seldom, write } from "./dom.js";
import { GLYPHS } from "./glyphs.js";

const ASK_MS = 2000;

export class Compare {
  constructor() {
    this.pair = null;
    this.ask = seldom(() => this.load(), ASK_MS);
  }

  /** Compare these two from now on; null for none. */
  open(pair, mesh) {
    const same = pair !== null && this.pair !== null && pair.join("\n") === this.pair.join("\n");
    this.pair = pair;
    if (pair === null || same) return;
    this.name(mesh);
    for (const way of ["ab", "ba"]) byId(`match-${way}`).replaceChildren(el("p", { class: "muted", text: "Asking ..." }));
    this.load();
  }

  name(mesh) {
    this.pair.forEach((id, index) => {
      const member = mesh.members.get(id);
      const letter = "ab"[index];
      write(byId(`pair-${letter}-name`), shown(id));
      write(
        byId(`pair-${letter}-model`),
        member === undefined ? "" : [shown(member.shortModel), member.rank, member.state].filter(Boolean).join("  "),
      );
    });
  }

  /** The mesh changed; `changed` says whether one of the two did. */
  show(mesh, changed) {
    if (this.pair === null) return;
    this.name(mesh);
    if (changed) this.ask();
  }

  async load() {
    const { pair } = this;
    if (pair === null) return;
    const [one, other] = pair;
    await Promise.all([this.judge("ab", other, one, pair), this.judge("ba", one, other, pair)]);
  }

  async judge(way, replica, source, pair) {
    const place = byId(`match-${way}`);
    let answer;
    try {
      const workers = await api.match(replica, source);
      answer = workers.length > 0 ? workers.map(verdict) : [nothing(replica)];
    } catch (error) {
      answer = [el("p", { class: "verdict no", text: shown(error.message) })];
    }
    if (this.pair !== pair) return;
    const text = answer.map((part) => part.textContent).join();
    // Nothing moves under who reads it when nothing changed.
    if (place.textContent !== text || place.childElementCount !== answer.length) {
      place.replaceChildren(...answer);
    }
  }
}

function nothing(replica) {
  return el("p", { class: "verdict no", text: `${shown(replica)} says of no model that it needs it.` });
}

function verdict(worker) {
  const what = [shown(worker.model ?? "a model"), shown(worker.role ?? ""), rankLabel(worker.layout)];
  return el(
    "div",
    { class: "verdict-block" },
    el(
      "p",
      { class: `verdict ${worker.fits ? "yes" : "no"}` },
      icon(worker.fits ? GLYPHS.ready : GLYPHS.dead),
      el("strong", { text: worker.fits ? "It fits" : "It does not fit" }),
    ),
    el("p", { class: "muted foreign", text: what.filter(Boolean).join("  ") }),
    worker.reasons.length > 0
      ? el("ul", { class: "reasons" }, ...worker.reasons.map((reason) => el("li", { class: "foreign", text: shown(reason) })))
      : null,
  );
}
