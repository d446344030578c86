// Every version: what it was worth on its holdout, what its gates said, what it cost.

import { Badge, Button, Empty, LongText, OutLink, Panel, RunLink, Span, Table, Time, WordBadge } from "./elements.js";
import { Chart } from "./chart.js";
import { forbiddenWhy } from "./action_buttons.js";
import { formatBytes, formatCount, formatSeconds, formatTime, formatValue, formatVersion, isNumber } from "./format.js";
import { ACTIONS } from "./words.js";
import { h, memo, useMemo } from "./host.js";

export function VersionsSection({ model, act }) {
  const { versions = [] } = model;
  if (versions.length === 0) {
    const forbidden = forbiddenWhy(model, "train");
    return h(
      Empty,
      {
        title: "No version was trained yet",
        actions: h(Button, { primary: true, icon: "play", forbidden, onClick: () => act("train") }, "Train now"),
      },
      "A training makes a version, judges it by the gates, and deploys it if it passes.",
    );
  }
  return h(
    "div",
    { className: "wv-stack" },
    h("div", { className: "wv-columns" }, h(MetricChart, { versions }), h(CostChart, { versions })),
    h(VersionTable, { model, act }),
  );
}

export function Verdict({ passed, no = "Refused" }) {
  if (passed === true) return h(Badge, { tone: "good", icon: "check" }, "Passed");
  if (passed === false) return h(Badge, { tone: "bad", icon: "cross" }, no);
  return h(Badge, { tone: "off", icon: "circle" }, "Not judged");
}

const MetricChart = memo(function MetricChart({ versions }) {
  const metric = versions[0].metric ?? "Metric";
  const plot = useMemo(() => {
    const known = versions.filter(({ value }) => isNumber(value)).reverse();
    const points = known.map((v) => ({ x: v.version, y: v.value, shape: v.passed === false ? "cross" : "dot", hollow: v.passed === null }));
    return {
      series: [{ name: `${metric} on the holdout`, kind: "line", tone: "first", shape: "dot", points }],
      rules: known.filter(({ served }) => served).map((v) => ({ x: v.version, label: "" })),
      stops: known.map((v) => ({ x: v.version, title: `Version ${v.version}`, lines: linesOf(v) })),
    };
  }, [versions, metric]);
  return h(Chart, {
    title: "Metric over versions",
    note: "On each version's own holdout: later ones were judged on other rows. Lines mark those that served, crosses those refused.",
    xKind: "version",
    xLabel: "Version",
    yLabel: metric,
    legend: [{ name: "refused", shape: "cross", tone: "first" }],
    empty: "No version was judged yet.",
    table: { columns: METRICS, rows: versions },
    ...plot,
  });
});

const METRICS = [
  { label: "Version", numeric: true, cell: (v) => formatVersion(v.version) },
  { label: "Value", numeric: true, cell: (v) => formatValue(v.value) },
  { label: "Gates", cell: (v) => h(Verdict, v) },
  { label: "All metrics", wide: true, cell: (v) => h(LongText, null, listMetrics(v)) },
];

function listMetrics({ metrics }) {
  return Object.entries(metrics ?? {})
    .map(([name, value]) => `${name} ${formatValue(value)}`)
    .join(" · ");
}

function linesOf(version) {
  return [
    [version.metric ?? "metric", formatValue(version.value)],
    ["gates", version.passed === true ? "passed" : version.passed === false ? "refused" : "not judged"],
    ["trained", formatTime(version.trained_at)],
    ["training took", formatSeconds(version.seconds)],
    ["size", formatBytes(version.size_bytes)],
  ];
}

const CostChart = memo(function CostChart({ versions }) {
  const plot = useMemo(() => {
    const known = versions.filter(({ seconds, trained_at }) => isNumber(seconds) && trained_at).reverse();
    return {
      zero: true,
      series: [
        {
          name: "training",
          kind: "line",
          tone: "first",
          shape: "dot",
          points: known.map((v) => ({ x: Date.parse(v.trained_at), y: v.seconds })),
        },
      ],
      stops: known.map((v) => ({
        x: Date.parse(v.trained_at),
        title: `Version ${v.version}, ${formatTime(v.trained_at)}`,
        lines: [
          ["took", formatSeconds(v.seconds)],
          ["rows", formatCount(v.training_rows)],
          ["size", formatBytes(v.size_bytes)],
        ],
      })),
    };
  }, [versions]);
  return h(Chart, {
    title: "Cost of training over time",
    note: "How long each training took.",
    xLabel: "Trained at",
    yLabel: "Duration",
    formatY: formatSeconds,
    empty: "No training was timed yet.",
    table: { columns: COSTS, rows: versions },
    ...plot,
  });
});

const COSTS = [
  { label: "Version", numeric: true, cell: (v) => formatVersion(v.version) },
  { label: "Trained", nowrap: true, cell: (v) => h(Time, { at: v.trained_at }) },
  { label: "Took", numeric: true, cell: (v) => formatSeconds(v.seconds) },
  { label: "Rows", numeric: true, cell: (v) => formatCount(v.training_rows) },
  { label: "Size", numeric: true, cell: (v) => formatBytes(v.size_bytes) },
];

function VersionTable({ model, act }) {
  const columns = [
    { label: "Version", nowrap: true, cell: (v) => h(Name, { version: v, model }) },
    { label: "Gates and release", wide: true, cell: (v) => h(Outcome, { version: v, model }) },
    {
      label: model.versions[0].metric ?? "Metric",
      numeric: true,
      hint: "On the holdout of its training",
      cell: (v) => formatValue(v.value),
    },
    {
      label: "Trained",
      nowrap: true,
      cell: (v) => h(
        "div",
        null,
        h(Time, { at: v.trained_at }),
        h("div", { className: "wv-muted" }, h(Time, { at: v.trained_at, relative: true })),
      ),
    },
    {
      label: "Trained on",
      nowrap: true,
      cell: (v) => h(
        "div",
        null,
        h(Span, { start: v.train_start, end: v.train_end }),
        h("div", { className: "wv-muted" }, `${formatCount(v.training_rows)} rows`),
      ),
    },
    { label: "Took", numeric: true, nowrap: true, cell: (v) => formatSeconds(v.seconds) },
    { label: "Size", numeric: true, nowrap: true, cell: (v) => formatBytes(v.size_bytes) },
    {
      label: "Links",
      nowrap: true,
      cell: (v) => h(
        "div",
        { className: "wv-line" },
        v.run ? h(RunLink, { run: v.run }, "Run") : null,
        v.mlflow_url ? h(OutLink, { href: v.mlflow_url }, "MLflow") : null,
      ),
    },
    { label: "Deploy", cell: (v) => h(Deploy, { version: v, model, act }) },
  ];
  return h(
    Panel,
    { title: "Versions", note: "Newest first." },
    h(Table, { label: "Versions", columns, rows: model.versions, keyOf: (v) => v.version }),
  );
}

function Name({ version, model }) {
  return h(
    "div",
    null,
    h("strong", { title: version.digest ? `Bundle ${version.digest}` : undefined }, formatVersion(version.version)),
    version.version === model.version
      ? h("div", null, h(Badge, { tone: "good", icon: "check" }, "Serves"))
      : version.served
        ? h(
            "div",
            { className: "wv-muted" },
            version.promoted_at ? ["promoted ", h(Time, { key: "at", at: version.promoted_at, relative: true })] : "served",
          )
        : h("div", { className: "wv-muted" }, "never served"),
    version.recalibrated_from
      ? h("div", { className: "wv-muted", title: `From bundle ${version.recalibrated_from}` }, "new calibration")
      : null,
  );
}

// why a version serves, or why it does not
function Outcome({ version, model }) {
  const ended = model.releases?.find((row) => row.version === version.version && (row.action === "revert" || row.action === "refuse"));
  const waits = model.approval && model.challenger?.version === version.version && model.challenger.state === "waiting";
  return h(
    "div",
    null,
    h(
      "div",
      { className: "wv-line" },
      h(Verdict, version),
      ended ? h(WordBadge, { words: ACTIONS, word: ended.action }) : null,
      waits ? h(Badge, { tone: "warn", icon: "person" }, "Waits for an approval") : null,
    ),
    version.verdict ? h("div", { className: "wv-muted" }, h(LongText, { length: 160 }, version.verdict)) : null,
    ended ? h("div", { className: "wv-muted" }, h(Time, { at: ended.at }), ": ", h(LongText, { length: 160 }, ended.reason)) : null,
  );
}

function Deploy({ version, model, act }) {
  const forbidden = version.version === model.version && !model.rollout ? "It serves already." : forbiddenWhy(model, "deploy");
  return h(
    Button,
    {
      small: true,
      forbidden,
      onClick: () => act("deploy", { version: version.version }),
      "aria-label": `Deploy version ${version.version}`,
      "aria-haspopup": "dialog",
    },
    "Deploy…",
  );
}
