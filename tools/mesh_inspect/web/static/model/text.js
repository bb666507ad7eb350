/**
 * Text of others, made harmless to look at. Adverts are not trusted: a character that nobody sees, or
 * that turns the characters around it, is shown as an escape.
 */

const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

/** Marks on one letter beyond these would climb over other lines. */
const MANY_MARKS = /(\p{M}{3})\p{M}+/gu;

/** Characters of a text that are shown; a tooltip shows no more either. */
export const MAX_SHOWN = 1100;

/** The text with every character that cannot be seen written as `\u{200b}`. Not a text: empty. */
export function shown(text) {
  if (typeof text !== "string") return "";
  const cut = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text;
  return cut
    .replace(UNSEEN, (char) => `\\u{${char.codePointAt(0).toString(16)}}`)
    .replace(MANY_MARKS, "$1...");
}

/** Several lines of such text. */
export function shownLines(text) {
  return text.split("\n").map((line) => shownWhole(line)).join("\n");
}

function shownWhole(line) {
  return line.replace(UNSEEN, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

/** The end of a path or of `org/name`: what tells two models apart in a narrow place. */
export function shortName(model) {
  const parts = shown(model).split("/").filter(Boolean);
  return parts.length > 0 ? parts[parts.length - 1] : "";
}

/** Compares names as people count: `node2` before `node10`. */
export const naturally = new Intl.Collator("en", { numeric: true }).compare;
