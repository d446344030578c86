// Where values lie on an axis, and which of them get a label.

import { formatValue, fromWall, toWall } from "./format.js";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const STEPS = [1, 2, 5, 10, 15, 30].map((n) => n * MINUTE).concat([1, 3, 6, 12].map((n) => n * HOUR), [1, 2, 7, 14].map((n) => n * DAY));
const MONTHS = [1, 2, 3, 6, 12, 24, 60, 120];
const MONTH_NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** A function from a value to a pixel. */
export function scale([low, high], [from, to]) {
  const spread = high - low || 1;
  return (value) => from + ((value - low) * (to - from)) / spread;
}

/** The ends of an axis around the values, with some air; from zero where bars start. */
export function extent(values, { zero = false, air = 0.06 } = {}) {
  let low = zero ? 0 : Infinity;
  let high = zero ? 0 : -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (low === high) return zero ? [0, high || 1] : [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
  const pad = (high - low) * air;
  return [zero && low >= 0 ? 0 : low - pad, high + pad];
}

/** Round numbers between two ends. */
export function numberTicks([low, high], most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((size) => size >= raw * 0.999) ?? power * 10;
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) ticks.push(n * step);
  // a single label says nothing of the scale
  if (ticks.length < 2 && most < 10) return numberTicks([low, high], most * 2);
  return ticks.map((value) => ({ at: value, label: tickLabel(value, step) }));
}

function tickLabel(value, step) {
  if (Math.abs(value) < step / 1000) return "0";
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const shown = step / 10 ** -digits >= 1 && Math.abs((step * 10 ** digits) % 1) > 1e-6 ? digits + 1 : digits;
  if (shown > 6) return formatValue(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: shown, maximumFractionDigits: shown }).replace(/,/g, "\u202f").replace(
    "-",
    "\u2212",
  );
}

/** Whole numbers between two ends. */
export function wholeTicks([low, high], most) {
  const step = Math.max(1, Math.ceil((high - low) / Math.max(1, most)));
  const ticks = [];
  for (let n = Math.ceil(low); n <= high; n += step) ticks.push({ at: n, label: String(n) });
  return ticks;
}

/** Round moments of the chosen zone's calendar between two moments in milliseconds. */
export function timeTicks([low, high], most) {
  const raw = (high - low) / Math.max(1, most);
  const step = STEPS.find((size) => size >= raw);
  return step && step <= 14 * DAY ? evenTicks(toWall(low), toWall(high), step, high - low) : monthTicks(toWall(low), toWall(high), raw);
}

function evenTicks(low, high, step, spread) {
  const ticks = [];
  for (let wall = Math.ceil(low / step) * step; wall <= high; wall += step) {
    const date = new Date(wall);
    const day = `${date.getUTCDate()} ${MONTH_NAMES[date.getUTCMonth()]}`;
    const clock = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}`;
    const label = step >= DAY || (spread > DAY && wall % DAY === 0) ? day : clock;
    ticks.push({ at: fromWall(wall), label });
  }
  return ticks;
}

function monthTicks(low, high, raw) {
  const months = MONTHS.find((n) => n * 30.44 * DAY >= raw) ?? MONTHS.at(-1);
  const first = new Date(low);
  let index = Math.ceil((first.getUTCFullYear() * 12 + first.getUTCMonth()) / months) * months;
  const ticks = [];
  for (; ; index += months) {
    const wall = Date.UTC(Math.floor(index / 12), index % 12, 1);
    if (wall > high) return ticks;
    if (wall < low) continue;
    const year = Math.floor(index / 12);
    ticks.push({ at: fromWall(wall), label: months >= 12 ? String(year) : `${MONTH_NAMES[index % 12]} ${year}` });
  }
}

function pad(number) {
  return String(number).padStart(2, "0");
}
