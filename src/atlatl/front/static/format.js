// Numbers and moments as people read them.

export const NONE = "–";

export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(1);
  return count(Math.round(value));
}

export function count(value) {
  return value === null || value === undefined ? NONE : Number(value).toLocaleString("en");
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 100000) return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
  return duration(value / 1000);
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.round(whole / 60)} min`;
  if (whole < 172800) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86400)} d`;
}

export function percent(part, whole) {
  if (!whole) return NONE;
  const value = (100 * part) / whole;
  return value === 0 ? "0 %" : `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = Number(value);
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** Milliseconds since 1970 of a moment that the service wrote: RFC 3339, or Unix seconds. */
export function moment(at) {
  if (at === null || at === undefined || at === "") return null;
  const time = typeof at === "number" ? at * 1000 : Date.parse(at);
  return Number.isNaN(time) ? null : time;
}

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const full = new Intl.DateTimeFormat("en-GB", {
  year: "numeric", month: "short", day: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export function time(at) {
  const when = moment(at);
  return when === null ? NONE : clock.format(when);
}

export function date(at) {
  const when = moment(at);
  return when === null ? NONE : full.format(when);
}

export function ago(at, now = Date.now()) {
  const when = moment(at);
  if (when === null) return NONE;
  const seconds = Math.max(0, (now - when) / 1000);
  return seconds < 2 ? "now" : `${duration(seconds)} ago`;
}

/** A text that is cut where it gets long. */
export function cut(text, most) {
  const whole = String(text ?? "");
  return whole.length > most ? `${whole.slice(0, most)}…` : whole;
}
