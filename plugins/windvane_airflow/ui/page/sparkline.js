// A small line of the newest windows. Realised values are solid, estimated ones dashed with an open end.

import { h, memo } from "./host.js";
import { isNumber, formatValue, plural } from "./format.js";
import { Marker, round } from "./shapes.js";

const WIDTH = 96;
const HEIGHT = 28;
const EDGE = 4;

export const Sparkline = memo(function Sparkline({ points, name }) {
  const known = (points ?? []).filter(([, value]) => isNumber(value));
  if (known.length < 2) return null;
  const values = known.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const spread = high - low || 1;
  const x = (index) => EDGE + (index * (WIDTH - 2 * EDGE)) / (known.length - 1);
  const y = (value) => (high === low ? HEIGHT / 2 : HEIGHT - EDGE - ((value - low) * (HEIGHT - 2 * EDGE)) / spread);
  const at = known.map(([, value], index) => `${round(x(index))} ${round(y(value))}`);
  // the dashed part begins at the last realised value, so that the line has no gap
  const split = known.findIndex(([, , kind]) => kind === "estimated");
  const solid = split < 0 ? at : at.slice(0, split);
  const dashed = split < 0 ? [] : at.slice(Math.max(0, split - 1));
  const [, last, kind] = known.at(-1);
  const course = `from ${formatValue(values[0])} to ${formatValue(last)}, lowest ${formatValue(low)}, highest ${formatValue(high)}`;
  const label = `${name ?? "Metric"} over ${plural(known.length, "window")}: ${course}`;
  return h(
    "svg",
    { className: "wv-spark", width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    h("title", null, label),
    solid.length > 1 ? h("path", { className: "wv-spark-line", d: `M${solid.join("L")}` }) : null,
    dashed.length > 1 ? h("path", { className: "wv-spark-line wv-dashed", d: `M${dashed.join("L")}` }) : null,
    h(Marker, { shape: "dot", x: x(known.length - 1), y: y(last), size: 2.5, hollow: kind === "estimated", className: "wv-spark-end" }),
  );
});
