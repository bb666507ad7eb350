/** Numbers as people read them. Each has a function for the exact value, which goes into titles. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const GROUPED = new Intl.NumberFormat("en");

/** `1,234`. */
export function count(number) {
  return GROUPED.format(number);
}

/** `7.6 GiB`, `156 MiB`; `-` for what is unknown. */
export function bytes(number) {
  if (!Number.isFinite(number) || number < 0) return "-";
  let unit = 0;
  let value = number;
  // 1023.5 would be written as 1024.
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return `${Math.round(value)} B`;
  return `${value.toFixed(value < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** `1.2 GiB/s`. */
export function rate(number) {
  return `${bytes(number)}/s`;
}

/** `8,190,735,360 bytes`. */
export function exactBytes(number) {
  return `${count(number)} bytes`;
}

/** `8,190,735,360 bytes/s`. */
export function exactRate(number) {
  return `${count(number)} bytes/s`;
}

/** `42%`, rounded down: 100% is said only of what is complete. */
export function percent(part, whole) {
  return whole > 0 ? `${Math.floor((100 * Math.min(part, whole)) / whole)}%` : "0%";
}

/** The two largest units of a time: `42s`, `3m05s`, `2h07m`, `4d03h`; `-` for what is unknown. */
export function age(seconds) {
  if (!Number.isFinite(seconds)) return "-";
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const DATED = new Intl.DateTimeFormat("en-CA", {
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
});

/** `14:03:59`, in the time zone of who looks. */
export function clockTime(epoch_s) {
  return Number.isFinite(epoch_s) ? CLOCK.format(epoch_s * 1000) : "-";
}

/** `2026-01-31 14:03:59`. */
export function dateTime(epoch_s) {
  if (!Number.isFinite(epoch_s)) return "-";
  return `${DATED.format(epoch_s * 1000)} ${clockTime(epoch_s)}`;
}

/** `1 member`, `2 members`. */
export function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
