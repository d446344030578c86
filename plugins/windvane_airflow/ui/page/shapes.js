// Small drawn signs: icons of buttons and badges, and the markers of charts, which differ by shape and not only by colour.

import { h } from "./host.js";

const ICONS = {
  back: "M6.5 3 3 6.5 6.5 10 M3 6.5h6a4 4 0 0 1 0 8H7",
  check: "M3 8.5 6.5 12 13 4.5",
  chevron: "M6 4l4 4-4 4",
  circle: "M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3z",
  close: "M4 4l8 8M12 4l-8 8",
  cross: "M4 4l8 8M12 4l-8 8",
  down: "M2.5 4.5 7 9l2.5-2.5 4 4.5M13.5 7.5V11H10",
  external: "M9.5 3H13v3.5M13 3 7.5 8.5M11.5 9.5v3h-8v-8h3",
  eye: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z M8 6.2a1.8 1.8 0 1 0 0 3.6 1.8 1.8 0 0 0 0-3.6z",
  info: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11z M8 7.5V11 M8 5v.2",
  person: "M8 2.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z M3 14c.5-3 2.5-4.2 5-4.2s4.5 1.2 5 4.2",
  play: "M5 3.5v9l7.5-4.5z",
  refresh: "M13 8a5 5 0 1 1-1.5-3.6M13 2.5V5h-2.5",
  rocket: "M8 13V5M4.5 8.5 8 5l3.5 3.5M4 2.5h8",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z M10.3 10.3 14 14",
  snow: "M8 2v12M2.8 5l10.4 6M13.2 5 2.8 11",
  sort: "M5 6l3-3 3 3M5 10l3 3 3-3",
  steps: "M2.5 12.5H6V9h3.5V5.5H13V3",
  stop: "M4.5 4.5h7v7h-7z",
  sun: "M8 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM8 1.5V3m0 10v1.5M1.5 8H3m10 0h1.5M3.5 3.5l1 1m7 7 1 1m0-9-1 1m-7 7-1 1",
  warn: "M8 2.5 14.5 13.5h-13z M8 6.5v3.5 M8 11.8v.2",
};

export function Icon({ name }) {
  return h(
    "svg",
    { className: "wv-icon", viewBox: "0 0 16 16", "aria-hidden": true, focusable: "false" },
    h("path", { d: ICONS[name] ?? ICONS.circle }),
  );
}

const MARKERS = {
  dot: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  ring: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  diamond: (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0z`,
  triangle: (r) => `M0 ${-1.3 * r}L${1.25 * r} ${r}H${-1.25 * r}z`,
  square: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  bar: (r) => `M${-r} 0h${2 * r}`,
  cross: (r) => `M${-r} ${-r}L${r} ${r}M${r} ${-r}L${-r} ${r}`,
};

/** A marker at a place of a chart. */
export function Marker({ shape, x = 0, y = 0, size = 3.5, hollow = false, className = "" }) {
  const open = hollow || shape === "ring";
  const line = shape === "bar" || shape === "cross";
  return h("path", {
    className: `wv-marker ${open ? "wv-hollow" : ""} ${line ? "wv-stroke" : ""} ${className}`,
    d: (MARKERS[shape] ?? MARKERS.dot)(size),
    transform: `translate(${round(x)} ${round(y)})`,
  });
}

/** The same sign beside a word. */
export function Sign({ shape, className = "", hollow = false }) {
  return h(
    "svg",
    { className: "wv-sign", viewBox: "-6 -6 12 12", "aria-hidden": true, focusable: "false" },
    h(Marker, { shape, size: 4, hollow, className }),
  );
}

export function round(value) {
  return Math.round(value * 10) / 10;
}
