// One chart for everything that has an x axis of time or of versions: lines with intervals, bars, marks and rules.
//
// Series differ by dash and by shape of their points, so that they can be told apart without colour. The chart is walked
// with the arrow keys; what is under the pointer or the keyboard is written beside it, and a table holds all of it.

import { Button, Panel, Table } from "./elements.js";
import { extent, numberTicks, scale, timeTicks, wholeTicks } from "./scales.js";
import { formatValue, isNumber, useZone } from "./format.js";
import { Fragment, h, memo, useLayoutEffect, useMemo, useRef, useState } from "./host.js";
import { Marker, round, Sign } from "./shapes.js";

const MARGIN = { top: 24, right: 14, bottom: 40, left: 58 };
// the labels of vertical lines have a line of their own below that of the axis
const RULE_LABELS = 14;
const STRIP = 20;
const NONE = [];

/**
 * A titled chart with its legend and a table behind it.
 *
 * @param series [{name, kind: "line" | "bar", tone: "first" | "second", dashed, shape, points: [{x, y, low, high, hollow}]}]
 * @param marks [{x, shape, tone}]: signs in a strip below; @param rules [{x, label}]: vertical lines
 * @param stops [{x, title, lines: [[name, text]], pick}]: what can be walked to, and what Enter or a click does there
 * @param table {columns, rows}: the same as a table, newest first
 */
export function Chart({ title, note, table, empty, legend = [], ...plot }) {
  const [asTable, setAsTable] = useState(false);
  const hasData = plot.series.some(({ points }) => points.length > 0);
  const toggle = h(
    Button,
    { small: true, "aria-pressed": asTable, onClick: () => setAsTable(!asTable) },
    asTable ? "Show as chart" : "Show as table",
  );
  return h(
    Panel,
    { title, note, actions: hasData ? toggle : null },
    !hasData ? h("p", { className: "wv-nothing" }, empty) : null,
    hasData && asTable ? h(Table, { label: title, columns: table.columns, rows: table.rows }) : null,
    hasData && !asTable ? h(Fragment, null, h(Legend, { series: plot.series, extra: legend }), h(Plot, { title, ...plot })) : null,
  );
}

function Legend({ series, extra }) {
  const entries = series.filter(({ points }) => points.length > 0);
  if (entries.length + extra.length < 2) return null;
  return h(
    "ul",
    { className: "wv-legend", "aria-label": "Legend" },
    entries.map(({ name, tone, kind, dashed, shape, hatched }) =>
      h("li", { key: name }, h(Swatch, { tone, kind, dashed, shape, hatched }), name),
    ),
    extra.map(({ name, shape, tone }) => h("li", { key: name }, h(Sign, { shape, className: `wv-tone-${tone}` }), name)),
  );
}

function Swatch({ tone, kind, dashed, shape, hatched }) {
  const className = `wv-tone-${tone}`;
  return h(
    "svg",
    { width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": true, className },
    kind === "bar"
      ? h(
          "rect",
          {
            x: 7,
            y: 1,
            width: 12,
            height: 10,
            className: hatched ? "wv-bar wv-hatched" : "wv-bar",
            fill: hatched ? "url(#wv-hatch)" : undefined,
          },
        )
      : [
          h("path", { key: "line", className: `wv-series ${dashed ? "wv-dashed" : ""}`, d: "M0 6H26" }),
          h(Marker, { key: "sign", shape, x: 13, y: 6, size: 3.2 }),
        ],
  );
}

const Plot = memo(function Plot(props) {
  const { title, series, marks = NONE, rules = NONE, stops = NONE } = props;
  const { xKind = "time", xLabel, yLabel, formatY, zero = false, height = 240 } = props;
  const zone = useZone();
  const box = useRef(null);
  const width = useWidth(box);
  const [at, setAt] = useState(null);
  const [byKey, setByKey] = useState(false);

  const frame = useMemo(
    () => layOut({ width, height, series, marks, rules, stops, xKind, zero }),
    [width, height, series, marks, rules, stops, xKind, zero, zone],
  );
  const stop = stops[at] ?? null;
  const canPick = stops.some(({ pick }) => pick);
  const move = (event) => {
    if (stops.length === 0) return;
    const x = event.clientX - box.current.getBoundingClientRect().left;
    setByKey(false);
    setAt(nearest(stops, frame.x, x));
  };
  const walk = (event) => {
    const to = { ArrowRight: (at ?? -1) + 1, ArrowLeft: (at ?? stops.length) - 1, Home: 0, End: stops.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      setByKey(true);
      setAt(Math.max(0, Math.min(stops.length - 1, to)));
    } else if (event.key === "Enter" && stop?.pick) {
      event.preventDefault();
      stop.pick();
    } else if (event.key === "Escape") {
      setAt(null);
    }
  };

  return h(
    "div",
    {
      ref: box,
      className: `wv-chart ${stop?.pick ? "wv-can-pick" : ""}`,
      style: { blockSize: height },
      tabIndex: 0,
      role: "group",
      "aria-roledescription": "chart",
      "aria-label": `${title}. ${summarize(series)} Use the arrow keys to read the points${canPick ? ", and Enter to open one" : ""}.`,
      onMouseMove: move,
      onMouseLeave: () => setAt(null),
      onBlur: () => setAt(null),
      onClick: () => stop?.pick?.(),
      onKeyDown: walk,
    },
    width > 0
      ? h(Drawing, { frame, width, height, series, marks, rules, xLabel, yLabel, formatY, cursor: stop ? frame.x(stop.x) : null })
      : null,
    stop ? h(Reading, { stop, left: frame.x(stop.x), width }) : null,
    h(
      "div",
      { className: "wv-hidden", role: "status" },
      stop && byKey ? [stop.title, ...stop.lines.map(([name, text]) => `${name}: ${text}`)].join("; ") : "",
    ),
  );
});

function useWidth(box) {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.floor(box.current?.clientWidth ?? 0));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

function layOut({ width, height, series, marks, rules, stops, xKind, zero }) {
  const all = series.flatMap(({ points }) => points);
  const bars = series.some(({ kind }) => kind === "bar");
  const xs = [...all, ...marks, ...stops].map(({ x }) => x);
  const ys = all.flatMap(({ y, low, high }) => [y, low, high]).filter(isNumber);
  // bars need half of their width beside the first and the last
  const xRange = extent(xs, { air: bars || xKind === "version" ? 0.03 : 0.01 });
  const yRange = extent(ys, { zero: zero || bars });
  const bottom = height - MARGIN.bottom - (marks.length ? STRIP : 0);
  const top = MARGIN.top + (rules.some(({ label }) => label) ? RULE_LABELS : 0);
  const right = Math.max(MARGIN.left + 20, width - MARGIN.right);
  const count = Math.max(3, Math.floor((right - MARGIN.left) / 90));
  return {
    x: scale(xRange, [MARGIN.left, right]),
    y: scale(yRange, [bottom, top]),
    top,
    bottom,
    right,
    yRange,
    strip: height - MARGIN.bottom - STRIP / 2 + 3,
    xTicks: xKind === "time" ? timeTicks(xRange, count) : wholeTicks(xRange, count),
    yTicks: numberTicks(yRange, Math.max(2, Math.floor((bottom - top) / 42))),
    bar: Math.max(1.5, Math.min(22, ((right - MARGIN.left) / Math.max(1, ...series.map(({ points }) => points.length))) * 0.66)),
    rules: spread(rules, scale(xRange, [MARGIN.left, right])),
  };
}

// labels of rules that lie too close are left out; their line stays
function spread(rules, x) {
  let last = -Infinity;
  return rules.map((rule) => {
    const at = x(rule.x);
    const shown = at - last > 26;
    if (shown) last = at;
    return { at, label: shown ? rule.label : "" };
  });
}

function Drawing({ frame, width, height, series, xLabel, yLabel, marks, formatY, cursor }) {
  return h(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": true, focusable: "false" },
    h(
      "defs",
      null,
      h(
        "pattern",
        { id: "wv-hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        h("rect", { width: 2.4, height: 5, className: "wv-hatch-line" }),
      ),
    ),
    frame.yTicks.map(({ at, label }) =>
      h(
        Fragment,
        { key: at },
        h("path", { className: "wv-grid", d: `M${MARGIN.left} ${round(frame.y(at))}H${frame.right}` }),
        h("text", { x: MARGIN.left - 8, y: frame.y(at) + 4, className: "wv-tick wv-end" }, formatY ? formatY(at) : label),
      ),
    ),
    frame.xTicks.map(({ at, label }) =>
      h(
        Fragment,
        { key: at },
        h("path", { className: "wv-axis", d: `M${round(frame.x(at))} ${height - MARGIN.bottom}v4` }),
        h("text", { x: frame.x(at), y: height - MARGIN.bottom + 17, className: "wv-tick wv-middle" }, label),
      ),
    ),
    h("path", { className: "wv-axis", d: `M${MARGIN.left} ${height - MARGIN.bottom}H${frame.right}` }),
    h("text", { x: MARGIN.left - 48, y: 12, className: "wv-axis-label" }, yLabel),
    h("text", { x: (MARGIN.left + frame.right) / 2, y: height - 5, className: "wv-axis-label wv-middle" }, xLabel),
    frame.rules.map(({ at, label }, index) =>
      h(
        Fragment,
        { key: `rule${index}` },
        h("path", { className: "wv-rule", d: `M${round(at)} ${frame.top - 4}V${frame.bottom}` }),
        label ? h("text", { x: at, y: frame.top - 8, className: "wv-tick wv-middle" }, label) : null,
      ),
    ),
    // the first series lies on top
    [...series].reverse().map((one) => h(one.kind === "bar" ? Bars : Line, { key: one.name, ...one, frame })),
    marks.map(
      ({ x, shape, tone }, index) => h(
        Marker,
        { key: `mark${index}`, shape, x: frame.x(x), y: frame.strip, size: 3.6, className: `wv-tone-${tone}` },
      ),
    ),
    cursor === null ? null : h("path", { className: "wv-cursor", d: `M${round(cursor)} ${frame.top}V${height - MARGIN.bottom}` }),
  );
}

function Line({ points, tone, dashed, shape, frame }) {
  const known = points.filter(({ y }) => isNumber(y));
  const place = ({ x, y }) => `${round(frame.x(x))} ${round(frame.y(y))}`;
  const band = known.filter(({ low, high }) => isNumber(low) && isNumber(high));
  const lower = band.map(({ x, low }) => place({ x, y: low }));
  const upper = band.map(({ x, high }) => place({ x, y: high })).reverse();
  const few = known.length <= 120;
  return h(
    "g",
    { className: `wv-tone-${tone}` },
    band.length > 1
      ? h("path", {
          className: "wv-band",
          d: `M${lower.join("L")}L${upper.join("L")}Z`,
        })
      : null,
    known.length > 1 ? h("path", { className: `wv-series ${dashed ? "wv-dashed" : ""}`, d: `M${known.map(place).join("L")}` }) : null,
    few || known.length === 1
      ? known.map(
          (point, index) => h(
            Marker,
            { key: index, shape: point.shape ?? shape, x: frame.x(point.x), y: frame.y(point.y), size: 3, hollow: point.hollow },
          ),
        )
      : null,
  );
}

function Bars({ points, tone, hatched, frame }) {
  const floor = frame.y(Math.max(0, frame.yRange[0]));
  return h(
    "g",
    { className: `wv-tone-${tone}` },
    points.map(({ x, y, from = 0 }, index) => {
      const [top, bottom] = [frame.y(from + y), from ? frame.y(from) : floor];
      return h("rect", {
        key: index,
        className: hatched ? "wv-bar wv-hatched" : "wv-bar",
        fill: hatched ? "url(#wv-hatch)" : undefined,
        x: round(frame.x(x) - frame.bar / 2),
        y: round(Math.min(top, bottom)),
        width: round(frame.bar),
        height: round(Math.abs(bottom - top)),
      });
    }),
  );
}

function Reading({ stop, left, width }) {
  const side = left > width / 2 ? { right: width - left + 12 } : { left: left + 12 };
  return h(
    "div",
    { className: "wv-reading", style: side, "aria-hidden": true },
    h("strong", null, stop.title),
    h(
      "dl",
      null,
      stop.lines.map(([name, text]) => h("div", { key: name }, h("dt", null, name), h("dd", null, text))),
    ),
    stop.pick ? h("span", { className: "wv-muted" }, "Click for all of it") : null,
  );
}

function nearest(stops, x, pixel) {
  let best = 0;
  for (let index = 1; index < stops.length; index += 1) {
    if (Math.abs(x(stops[index].x) - pixel) < Math.abs(x(stops[best].x) - pixel)) best = index;
  }
  return best;
}

function summarize(series) {
  return series
    .filter(({ points }) => points.length > 0)
    .map(({ name, points }) => `${name}: ${points.length} points, the last ${formatValue(points.at(-1).y)}.`)
    .join(" ");
}
