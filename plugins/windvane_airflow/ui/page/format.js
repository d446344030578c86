// Numbers and times as people read them. Times are shown in the zone that Airflow's own selector holds.

import { useSyncExternalStore } from "./host.js";

export const NOTHING = "–";
const THIN = "\u202f";
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

// Airflow keeps the chosen zone under this key and tells of a change with the second event
const ZONE_KEY = "timezone";
const zoneListeners = new Set();
let zone = readZone();
let formatters = {};

for (const name of ["storage", "local-storage"]) {
  addEventListener(name, (event) => {
    if (event.key && event.key !== ZONE_KEY) return;
    zone = readZone();
    formatters = {};
    for (const listener of zoneListeners) listener();
  });
}

function readZone() {
  try {
    const chosen = JSON.parse(localStorage.getItem(ZONE_KEY));
    if (chosen) return new Intl.DateTimeFormat("en", { timeZone: chosen }).resolvedOptions().timeZone;
  } catch {
    // a zone that this browser does not know: its own is used
  }
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

export function useZone() {
  return useSyncExternalStore(
    (listener) => {
      zoneListeners.add(listener);
      return () => zoneListeners.delete(listener);
    },
    () => zone,
  );
}

// one clock for all relative times, ticking every ten seconds
const clockListeners = new Set();
let now = Date.now();
let ticking = null;

export function useNow() {
  return useSyncExternalStore(
    (listener) => {
      clockListeners.add(listener);
      ticking ??= setInterval(() => {
        now = Date.now();
        for (const each of clockListeners) each();
      }, 10_000);
      return () => {
        clockListeners.delete(listener);
        if (clockListeners.size === 0) {
          clearInterval(ticking);
          ticking = null;
        }
      };
    },
    () => (ticking === null ? (now = Math.floor(Date.now() / 10_000) * 10_000) : now),
  );
}

function formatter() {
  formatters.parts ??= new Intl.DateTimeFormat("en-GB", {
    timeZone: zone,
    hourCycle: "h23",
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  });
  return formatters.parts;
}

function partsOf(date) {
  const parts = {};
  for (const { type, value } of formatter().formatToParts(date)) parts[type] = value;
  return parts;
}

/** Milliseconds of the zone's wall clock, as if it were UTC: what calendars and axes count in. */
export function toWall(milliseconds) {
  const p = partsOf(new Date(milliseconds));
  return Date.UTC(p.year, p.month - 1, p.day, p.hour, p.minute, p.second);
}

/** The moment at which the zone's wall clock shows this; twice, because the offset may differ there. */
export function fromWall(wall) {
  const first = wall - (toWall(wall) - wall);
  return first + (wall - toWall(first));
}

/** `2026-11-21 13:35` in the chosen zone; midnights are shown as dates. */
export function formatTime(iso, { seconds = false, dateOnly = true } = {}) {
  const date = toDate(iso);
  if (!date) return NOTHING;
  const p = partsOf(date);
  const day = `${p.year}-${p.month}-${p.day}`;
  if (dateOnly && p.hour === "00" && p.minute === "00" && p.second === "00") return day;
  return `${day} ${p.hour}:${p.minute}${seconds ? `:${p.second}` : ""}`;
}

/** The exact time with its zone and in UTC, for hovering. */
export function formatExact(iso) {
  const date = toDate(iso);
  if (!date) return NOTHING;
  const offset = Math.round((toWall(date.getTime()) - Math.floor(date.getTime() / 1000) * 1000) / 60_000);
  const [hours, minutes] = [Math.floor(Math.abs(offset) / 60), Math.abs(offset) % 60];
  const sign = `${offset < 0 ? "-" : "+"}${String(hours).padStart(2, "0")}:${String(minutes).padStart(2, "0")}`;
  const utc = date.toISOString().replace(/\.000Z$/, "Z");
  return `${formatTime(iso, { seconds: true, dateOnly: false })} ${sign} (${zone}) = ${utc}`;
}

/** `3 h ago`, `in 20 min`. */
export function formatRelative(iso, at) {
  const date = toDate(iso);
  if (!date) return NOTHING;
  const seconds = (date.getTime() - at) / 1000;
  const size = formatLong(Math.abs(seconds));
  if (!size) return seconds > 0 ? "now" : "just now";
  return seconds > 0 ? `in ${size}` : `${size} ago`;
}

function formatLong(seconds) {
  if (seconds < 45) return "";
  if (seconds < 90 * MINUTE) return `${Math.max(1, Math.round(seconds / MINUTE))} min`;
  if (seconds < 48 * HOUR) return `${Math.round(seconds / HOUR)} h`;
  if (seconds < 60 * DAY) return `${Math.round(seconds / DAY)} days`;
  if (seconds < 700 * DAY) return `${Math.round(seconds / (30.44 * DAY))} months`;
  return `${Math.round(seconds / (365.25 * DAY))} years`;
}

/** Both ends of a window; the second without what it shares with the first. */
export function formatWindow(start, end) {
  if (!start || !end) return NOTHING;
  const [from, to] = [formatTime(start), formatTime(end)];
  const sameDay = from.length > 10 && from.slice(0, 10) === to.slice(0, 10) && to.length > 10;
  return `${from} → ${sameDay ? to.slice(11) : to}`;
}

/** How long something took: `48 s`, `3 min 20 s`, `1 h 5 min`. */
export function formatSeconds(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds < 10) return `${trim(seconds.toFixed(1))}${THIN}s`;
  if (seconds < MINUTE) return `${Math.round(seconds)}${THIN}s`;
  const whole = Math.round(seconds);
  if (whole < HOUR) return join(Math.floor(whole / MINUTE), "min", whole % MINUTE, "s");
  if (whole < 2 * DAY) return join(Math.floor(whole / HOUR), "h", Math.round((whole % HOUR) / MINUTE), "min");
  return join(Math.floor(whole / DAY), "d", Math.round((whole % DAY) / HOUR), "h");
}

function join(large, largeUnit, small, smallUnit) {
  return small ? `${large}${THIN}${largeUnit} ${small}${THIN}${smallUnit}` : `${large}${THIN}${largeUnit}`;
}

/** A measured value: four decimals below ten, fewer above. */
export function formatValue(value) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.0001) return value.toExponential(1).replace("-", "\u2212").replace("e\u2212", "e-");
  const digits = size < 10 ? 4 : size < 1000 ? 2 : 0;
  return group(value.toFixed(digits));
}

/** A difference with its sign. */
export function formatDifference(value) {
  return isNumber(value) && value > 0 ? `+${formatValue(value)}` : formatValue(value);
}

export function formatCount(value) {
  return isNumber(value) ? group(String(Math.round(value))) : NOTHING;
}

export function formatPercent(share, digits = 1) {
  return isNumber(share) ? `${group(trim((share * 100).toFixed(digits)))}${THIN}%` : NOTHING;
}

export function formatBytes(bytes) {
  if (!isNumber(bytes)) return NOTHING;
  const units = ["B", "kB", "MB", "GB"];
  let power = 0;
  let left = bytes;
  while (left >= 1000 && power < units.length - 1) {
    left /= 1000;
    power += 1;
  }
  return `${power ? left.toFixed(left < 10 ? 2 : left < 100 ? 1 : 0) : left}${THIN}${units[power]}`;
}

export function formatMilliseconds(value) {
  return isNumber(value) ? `${trim(value.toFixed(value < 10 ? 2 : 0))}${THIN}ms` : NOTHING;
}

/** `v4`, or what stands for nothing. */
export function formatVersion(version) {
  return isNumber(version) ? `v${version}` : NOTHING;
}

/** Who gets which part of the traffic: `v4 90 % · v5 10 %`. */
export function formatShares(traffic) {
  const shares = Object.entries(traffic ?? {}).filter(([, percent]) => percent > 0);
  return shares.length ? shares.map(([version, percent]) => `v${version} ${percent}${THIN}%`).join(" · ") : "nothing serves";
}

/** `1 window`, `2 windows`. */
export function plural(count, noun) {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : noun.endsWith("tch") ? "es" : "s"}`;
}

/** A cut at a whole character; what was cut is said. */
export function shorten(text, length) {
  const characters = [...String(text)];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : String(text);
}

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function toDate(iso) {
  if (iso === null || iso === undefined || iso === "") return null;
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? null : date;
}

function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function group(text) {
  const [whole, fraction] = text.replace("-", "\u2212").split(".");
  const grouped = whole.replace(/\d(?=(\d{3})+$)/g, (digit) => digit + THIN);
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
}
