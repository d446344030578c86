// How the model did over data time: its metric, its loss, drift, and what was decided.

import { Button, DecisionBadge, Empty, LongText, OutLink, Panel, Span, Table } from "./elements.js";
import { Chart } from "./chart.js";
import { changesOf, countDrifted, PerformanceChart, timeOf } from "./performance_chart.js";
import { ColumnGrid } from "./column_grid.js";
import { formatCount, formatPercent, formatValue, formatWindow, isNumber } from "./format.js";
import { h, memo, useMemo } from "./host.js";
import { Outcomes } from "./now.js";

export function PerformanceSection({ model, openWindow }) {
  const { windows = [] } = model;
  if (windows.length === 0) {
    return h(
      Empty,
      { title: "No window was looked at yet" },
      "The monitor decides after each batch of data, once a version serves. “Monitor” above runs it now.",
    );
  }
  return h(
    "div",
    { className: "wv-stack" },
    h("p", { className: "wv-muted" }, h(Outcomes, { windows })),
    h(PerformanceChart, { model, openWindow }),
    h("div", { className: "wv-columns" }, h(DriftChart, { windows, openWindow }), h(LossChart, { windows, openWindow })),
    h(ColumnGrid, { windows, openWindow }),
    h(Decisions, { windows, openWindow }),
  );
}

const DriftChart = memo(function DriftChart({ windows, openWindow }) {
  const plot = useMemo(() => {
    const seen = windows.filter(({ compared }) => compared > 0);
    return {
      series: [
        {
          name: "columns that drifted",
          kind: "bar",
          tone: "first",
          points: seen.map((w) => ({ x: timeOf(w), y: countDrifted(w) / w.compared })),
        },
      ],
      rules: changesOf(windows),
      stops: seen.map((w) => ({
        x: timeOf(w),
        title: formatWindow(w.start, w.end),
        lines: [
          ["drifted", `${countDrifted(w)} of ${w.compared} columns`],
          ...w.drifted.slice(0, 5).map((column, index) => [String(index + 1), column.slice(0, 60)]),
        ],
        pick: () => openWindow(w.key),
      })),
    };
  }, [windows, openWindow]);
  return h(Chart, {
    title: "Drift over time",
    note: "Share of the columns whose distribution left that of the training.",
    xLabel: "Data time",
    yLabel: "Columns that drifted",
    formatY: (value) => formatPercent(value, 0),
    empty: "No column was compared yet.",
    table: { columns: DRIFT_COLUMNS, rows: [...windows].reverse() },
    ...plot,
  });
});

const DRIFT_COLUMNS = [
  { label: "Window", nowrap: true, cell: (w) => h(Span, w) },
  { label: "Drifted", numeric: true, cell: (w) => formatCount(countDrifted(w)) },
  { label: "Compared", numeric: true, cell: (w) => formatCount(w.compared) },
  { label: "Columns", wide: true, cell: (w) => (w.drifted.length ? h(LongText, { length: 160 }, w.drifted.join(", ")) : null) },
];

const LossChart = memo(function LossChart({ windows, openWindow }) {
  const plot = useMemo(() => {
    const seen = windows.filter(({ loss }) => isNumber(loss?.value));
    return {
      series: [
        {
          name: "loss",
          kind: "line",
          tone: "first",
          shape: "dot",
          points: seen.map((w) => ({ x: timeOf(w), y: w.loss.value, shape: w.harmed ? "square" : "dot" })),
        },
        {
          name: "expected from the training",
          kind: "line",
          tone: "second",
          dashed: true,
          shape: "diamond",
          points: seen.filter(({ loss }) => isNumber(loss.expected)).map((w) => ({ x: timeOf(w), y: w.loss.expected })),
        },
      ],
      rules: changesOf(windows),
      stops: seen.map((w) => ({
        x: timeOf(w),
        title: formatWindow(w.start, w.end),
        lines: [
          ["loss", formatValue(w.loss.value)],
          ["expected", formatValue(w.loss.expected)],
          ["p", formatValue(w.loss.p)],
          ["harm", w.harmed ? "yes" : "no"],
        ],
        pick: () => openWindow(w.key),
      })),
    };
  }, [windows, openWindow]);
  return h(Chart, {
    title: "Loss over time",
    note: "Log loss, or squared error. Squares are windows with harm: a loss beyond what the training showed.",
    xLabel: "Data time",
    yLabel: "Loss",
    legend: windows.some(({ harmed }) => harmed) ? [{ name: "harm", shape: "square", tone: "first" }] : [],
    empty: "No outcome is known yet, so no loss.",
    table: { columns: LOSS_COLUMNS, rows: windows.filter(({ loss }) => loss).reverse() },
    ...plot,
  });
});

const LOSS_COLUMNS = [
  { label: "Window", nowrap: true, cell: (w) => h(Span, w) },
  { label: "Loss", numeric: true, cell: (w) => formatValue(w.loss.value) },
  { label: "Expected", numeric: true, cell: (w) => formatValue(w.loss.expected) },
  { label: "p", numeric: true, hint: "Chance of a rise this large if nothing had changed", cell: (w) => formatValue(w.loss.p) },
  { label: "Harm", cell: (w) => (w.harmed ? "yes" : "no") },
];

const Decisions = memo(function Decisions({ windows, openWindow }) {
  const columns = [
    { label: "Window", nowrap: true, cell: (w) => h(Span, w) },
    { label: "Decision", cell: (w) => h(DecisionBadge, { decision: w.decision }) },
    {
      label: "Reason",
      wide: true,
      cell: (w) => h(
        "span",
        null,
        h(LongText, null, w.reason),
        w.released ? h("span", { className: "wv-muted" }, " Released by a person.") : null,
      ),
    },
    { label: "Version", numeric: true, cell: (w) => w.version },
    { label: "Rows", numeric: true, cell: (w) => formatCount(w.rows) },
    { label: "With outcome", numeric: true, cell: (w) => formatCount(w.labelled_rows) },
    { label: "Report", cell: (w) => (w.report_url ? h(OutLink, { href: w.report_url }, "Report") : null) },
    {
      label: "Evidence",
      cell: (w) => h(
        Button,
        { small: true, onClick: () => openWindow(w.key), "aria-label": `Evidence of ${formatWindow(w.start, w.end)}` },
        "Evidence",
      ),
    },
  ];
  return h(
    Panel,
    { title: "Decisions", note: "Newest first." },
    h(Table, { label: "Decisions", columns, rows: [...windows].reverse(), keyOf: (w) => w.key }),
  );
});
