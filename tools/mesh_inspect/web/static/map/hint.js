/** A few lines beside the pointer about the member under it. */

import { shown } from "../model/text.js";
import * as units from "../model/units.js";
import { el, icon } from "../parts/dom.js";
import { GLYPHS } from "../parts/glyphs.js";

export function hint(element, member, x, y, size) {
  element.hidden = member === null || member === undefined;
  if (element.hidden) return;
  element.replaceChildren(
    el(
      "div",
      { class: "hint-head" },
      el("span", { class: `state-sign s-${member.state}` }, icon(GLYPHS[member.state])),
      el("strong", { class: "foreign", text: shown(member.shortModel) || "no model yet" }),
      el("span", { class: "rank", text: member.rank }),
    ),
    ...lines(member).map((text) => el("div", { class: "hint-line foreign", text })),
  );
  const { offsetWidth, offsetHeight } = element;
  const left = x + 16 + offsetWidth > size.width ? x - offsetWidth - 12 : x + 16;
  const top = Math.min(y + 14, size.height - offsetHeight - 8);
  element.style.setProperty("transform", `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`);
}

function lines(member) {
  const found = [`${shown(member.id)}`];
  if (member.loads) {
    found.push(
      member.total > 0
        ? `${units.bytes(member.held)} of ${units.bytes(member.total)} (${units.percent(member.held, member.total)})`
        : "loading: size not known yet",
    );
    if (member.rate > 0) {
      found.push(`${units.rate(member.rate)} from ${from(member)}`);
    } else if (member.awaits.length > 0) {
      found.push(`waits for ${member.awaits.map(shown).join(", ")}`);
    }
  } else if (member.bytes > 0) {
    found.push(units.bytes(member.bytes));
  }
  if (member.serving > 0) found.push(`serves ${units.many(member.serving, "replica")}`);
  const reason = member.entries.map((entry) => entry.reason).find(Boolean);
  found.push(reason ? `${member.state}: ${shown(reason)}` : member.state);
  return found;
}

function from(member) {
  const sources = units.many(member.feeds.length, "source");
  if (!member.readsStorage) return sources;
  return member.feeds.length > 0 ? `storage and ${sources}` : "storage";
}
