// How numbers and times are written.

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

let ahead = 0;

// The dispatcher's clock says what "two minutes ago" means. It is told by the second.
export function setClock(date) {
  const seconds = Date.parse(date) / 1000 - Date.now() / 1000;
  if (!Number.isNaN(seconds)) ahead = Math.abs(seconds) < 2 ? 0 : seconds;
}

export const now = () => Date.now() / 1000 + ahead;

export const number = (value) => value.toLocaleString("en");

// A count that stops at a bound says so.
export const counted = (value, bound) => (value >= bound ? `${number(bound)}+` : number(value));

export function ms(value) {
  if (value < 1) return "0 ms";
  if (value < 1000) return `${Math.round(value)} ms`;
  const seconds = value / 1000;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < MINUTE) return `${seconds.toFixed(1)} s`;
  return span(seconds);
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return `${Math.floor(whole / MINUTE)} min ${whole % MINUTE} s`;
  if (whole < DAY) return `${Math.floor(whole / HOUR)} h ${Math.floor((whole % HOUR) / MINUTE)} min`;
  return `${Math.floor(whole / DAY)} d ${Math.floor((whole % DAY) / HOUR)} h`;
}

export function ago(epoch) {
  const seconds = now() - Number(epoch);
  if (seconds < 5) return "just now";
  if (seconds < MINUTE) return `${Math.floor(seconds)} s ago`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
  return `${Math.floor(seconds / DAY)} d ago`;
}

export const exact = (epoch) =>
  new Date(Number(epoch) * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "medium", hour12: false });

export const bytes = (value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
};

export const mib = (value) => bytes(value * 1024 * 1024);

export const share = (value) => `${Math.round(value * 100)} %`;

// The end of an id differs between ids of the same second, its beginning does not.
export const shortId = (id) => (id.includes("-") ? id.slice(0, 8) : `…${id.slice(-8)}`);
