// The metric over data time, with intervals, promotions and what was decided about each window.

import { Chart } from "./chart.js";
import { DecisionBadge, Span } from "./elements.js";
import { DECISIONS, wordOf } from "./words.js";
import { formatPercent, formatValue, formatWindow, isNumber, plural } from "./format.js";
import { h, memo, useMemo } from "./host.js";

export const PerformanceChart = memo(function PerformanceChart({ model, openWindow, height = 300 }) {
  const { windows = [] } = model;
  const plot = useMemo(() => describePlot(windows, openWindow), [windows, openWindow]);
  const metric = windows.at(-1)?.metric ?? model.metric?.name ?? "Metric";
  const decisions = useMemo(() => listDecisions(windows), [windows]);
  return h(Chart, {
    title: `${metric} over time`,
    note: "Bands are 95 % intervals. The signs below are decisions; vertical lines are versions that came to serve.",
    xLabel: "Data time",
    yLabel: metric,
    height,
    legend: decisions,
    empty: "No window was looked at yet: the monitor decides after each batch of data.",
    table: { columns: COLUMNS, rows: [...windows].reverse() },
    ...plot,
  });
});

const COLUMNS = [
  { label: "Window", nowrap: true, cell: (w) => h(Span, w) },
  { label: "Decision", cell: (w) => h(DecisionBadge, { decision: w.decision }) },
  { label: "Version", numeric: true, cell: (w) => w.version },
  { label: "Realised", numeric: true, cell: (w) => formatValue(w.realised?.value) },
  { label: "95 % interval", numeric: true, nowrap: true, cell: (w) => interval(w.realised) },
  { label: "Estimated", numeric: true, cell: (w) => formatValue(w.estimated?.value) },
  { label: "95 % interval of the estimate", numeric: true, nowrap: true, cell: (w) => interval(w.estimated) },
  { label: "Trusted", cell: (w) => (w.estimated ? (w.estimated.trusted ? "yes" : "no") : null) },
];

export function interval(value) {
  return isNumber(value?.low) && isNumber(value?.high) ? `${formatValue(value.low)} to ${formatValue(value.high)}` : "–";
}

/** How many columns drifted; the names of very many are cut by the API. */
export function countDrifted({ drifted_count: count, drifted }) {
  return count ?? drifted.length;
}

export function timeOf(window) {
  return Date.parse(window.end);
}

function listDecisions(windows) {
  const found = new Set(windows.map(({ decision }) => decision));
  return Object.keys(DECISIONS)
    .filter((name) => found.has(name))
    .map((name) => ({ name: DECISIONS[name].label, shape: DECISIONS[name].shape, tone: DECISIONS[name].tone }));
}

function describePlot(windows, openWindow) {
  const realised = windows.filter(({ realised: value }) => isNumber(value?.value));
  const estimated = windows.filter(({ estimated: value }) => isNumber(value?.value));
  return {
    series: [
      {
        name: "realised",
        kind: "line",
        tone: "first",
        shape: "dot",
        points: realised.map((w) => ({ x: timeOf(w), y: w.realised.value, low: w.realised.low, high: w.realised.high })),
      },
      {
        name: "estimated",
        kind: "line",
        tone: "second",
        dashed: true,
        shape: "diamond",
        points: estimated.map(
          (w) => ({ x: timeOf(w), y: w.estimated.value, low: w.estimated.low, high: w.estimated.high, hollow: !w.estimated.trusted }),
        ),
      },
    ],
    marks: windows.map((w) => ({ x: timeOf(w), shape: wordOf(DECISIONS, w.decision).shape, tone: wordOf(DECISIONS, w.decision).tone })),
    rules: changesOf(windows),
    stops: windows.map(
      (w) => ({ x: timeOf(w), title: formatWindow(w.start, w.end), lines: linesOf(w), pick: openWindow ? () => openWindow(w.key) : null }),
    ),
  };
}

/** Where another version came to serve. */
export function changesOf(windows) {
  return windows
    .filter((window, index) => index > 0 && window.version !== null && window.version !== windows[index - 1].version)
    .map((window) => ({ x: Date.parse(window.start), label: `v${window.version}` }));
}

function linesOf(window) {
  const lines = [["decision", wordOf(DECISIONS, window.decision).label]];
  if (window.realised) lines.push(["realised", `${formatValue(window.realised.value)} (${interval(window.realised)})`]);
  if (window.estimated) lines.push(
    [
      "estimated",
      `${formatValue(window.estimated.value)} (${interval(window.estimated)})${window.estimated.trusted ? "" : ", not trusted"}`,
    ],
  );
  if (!window.realised) lines.push(["outcomes", "not known"]);
  if (window.compared) lines.push(
    [
      "drifted",
      `${countDrifted(window)} of ${plural(window.compared, "column")}, ${formatPercent(countDrifted(window) / window.compared, 0)}`,
    ],
  );
  lines.push(["version", window.version === null ? "–" : String(window.version)]);
  return lines;
}
