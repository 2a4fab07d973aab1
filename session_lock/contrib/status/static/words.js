// Numbers and times, for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const NOTHING = "–";

export function number(value) {
  return value === null || value === undefined ? NOTHING : whole.format(value);
}

// For where there is little room: 12.3K.
export function compact(value) {
  return value === null || value === undefined ? NOTHING : Math.abs(value) < 10_000 ? number(value) : short.format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  return value >= 10 || value === 0 ? compact(value) : value.toFixed(1);
}

// As session_lock.wording.span has it.
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const number = Math.max(Math.round(seconds), 0);
  for (const [unit, length] of [["days", 86_400], ["hours", 3_600], ["minutes", 60]]) {
    if (number >= 2 * length) return `${Math.floor(number / length)} ${unit}`;
  }
  return `${number} second${number === 1 ? "" : "s"}`;
}

export function briefly(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const number = Math.max(seconds, 0);
  for (const [unit, length] of [["d", 86_400], ["h", 3_600], ["min", 60]]) {
    if (number >= 2 * length) return `${Math.floor(number / length)} ${unit}`;
  }
  return `${Math.round(number)} s`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  let size = value;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (size < 1024) return `${size < 10 && unit !== "B" ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TB`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}
