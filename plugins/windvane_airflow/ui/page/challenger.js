// The last challenger against the champion: its gates, metrics, slices, fairness, cost, and what changed in the config.

import { DecisionBadge, Empty, Facts, LongText, Panel, Span, Table, Text, Time, WordBadge } from "./elements.js";
import { approvalPath } from "./elements.js";
import { CHALLENGER } from "./words.js";
import { formatBytes, formatCount, formatDifference, formatMilliseconds, formatPercent, formatValue, isNumber } from "./format.js";
import { h, Link } from "./host.js";
import { Verdict } from "./versions.js";

export function ChallengerSection({ model }) {
  const { challenger } = model;
  if (!challenger) {
    return h(
      Empty,
      { title: "No challenger was judged yet" },
      "Each training makes one. It is compared here with the version that serves, before it may replace it.",
    );
  }
  return h(
    "div",
    { className: "wv-stack" },
    h(Summary, { challenger, approval: model.approval }),
    h("div", { className: "wv-columns" }, h(Gates, { challenger }), h(Metrics, { challenger })),
    h(Slices, { challenger }),
    challenger.fairness?.length ? h(Fairness, { challenger }) : null,
    h("div", { className: "wv-columns" }, h(Cost, { challenger }), h(ConfigDiff, { challenger })),
  );
}

function Summary({ challenger, approval }) {
  const { train, holdout, rows, decision } = challenger;
  const champion = isNumber(challenger.against) ? `version ${challenger.against}` : "nothing: it is the first";
  return h(
    Panel,
    {
      title: `Version ${challenger.version} against ${champion}`,
      actions: approval ? h(Link, { className: "wv-button wv-small wv-primary", to: approvalPath(approval) }, "Look and answer") : null,
    },
    h(
      "p",
      { className: "wv-line" },
      h(WordBadge, { words: CHALLENGER, word: challenger.state }),
      h("span", { className: "wv-line" }, "Gates: ", h(Verdict, challenger)),
    ),
    h(Facts, {
      facts: [
        ["Trained", h(Time, { at: challenger.trained_at })],
        train && ["Trained on", h("span", null, h(Span, train), h(Rows, { count: rows?.training }))],
        holdout && ["Judged on", h("span", null, h(Span, holdout), h(Rows, { count: rows?.holdout }))],
        decision && [
          "Decision that led here",
          h("span", null, h(DecisionBadge, { decision: decision.decision }), " ", h(LongText, null, decision.reason)),
        ],
        challenger.digest && ["Bundle", h("code", { title: challenger.digest }, String(challenger.digest).slice(0, 12))],
      ],
    }),
  );
}

function Rows({ count }) {
  return isNumber(count) ? h("span", { className: "wv-muted" }, ` ${formatCount(count)} rows`) : null;
}

function Gates({ challenger }) {
  const columns = [
    { label: "Gate", nowrap: true, cell: (gate) => h(Text, { className: "wv-strong" }, gate.name) },
    { label: "Verdict", cell: (gate) => h(Verdict, { passed: gate.passed, no: "Failed" }) },
    { label: "Value", numeric: true, cell: (gate) => formatValue(gate.value) },
    { label: "Threshold", numeric: true, cell: (gate) => formatValue(gate.threshold) },
    { label: "Reason", wide: true, cell: (gate) => h(LongText, null, gate.reason) },
  ];
  return h(
    Panel,
    { title: "Gates" },
    challenger.gates?.length ? h(Table, { label: "Gates", columns, rows: challenger.gates }) : h(
      "p",
      { className: "wv-nothing" },
      "The gates have not judged it yet.",
    ),
  );
}

function Metrics({ challenger }) {
  const columns = [
    { label: "Metric", cell: (row) => h(Text, { className: row.name === challenger.metric ? "wv-strong" : "" }, row.name) },
    { label: "Challenger", numeric: true, cell: (row) => formatValue(row.challenger) },
    { label: "Champion", numeric: true, cell: (row) => formatValue(row.champion) },
    { label: "Difference", numeric: true, cell: (row) => h(Difference, { value: row.difference, less: lessIsBetter(row.name) }) },
  ];
  return h(
    Panel,
    { title: "Metrics", note: "On the same holdout; the gates' own metric is bold." },
    h(Table, { label: "Metrics", columns, rows: challenger.metrics ?? [] }),
  );
}

// scikit-learn's scorers grow with quality, its bare losses and errors fall
function lessIsBetter(metric) {
  return !metric.startsWith("neg_") && /(loss|error|brier_score)$/.test(metric);
}

function Difference({ value, less = false }) {
  if (!isNumber(value)) return "–";
  const gain = less ? -value : value;
  return h(
    "span",
    { className: gain > 0 ? "wv-up" : gain < 0 ? "wv-fall" : "" },
    value > 0 ? "▲ " : value < 0 ? "▼ " : "",
    formatDifference(value),
  );
}

function Slices({ challenger }) {
  const rows = challenger.slices ?? [];
  const most = Math.max(...rows.map(({ difference }) => Math.abs(difference ?? 0)), 1e-9);
  const columns = [
    {
      label: "Slice",
      cell: (row) => h("span", null, h(Text, { className: "wv-muted" }, row.column), " = ", h(LongText, { length: 80 }, row.value)),
    },
    { label: "Rows", numeric: true, cell: (row) => formatCount(row.rows) },
    { label: "Challenger", numeric: true, cell: (row) => formatValue(row.challenger) },
    { label: "Champion", numeric: true, cell: (row) => formatValue(row.champion) },
    { label: "Difference", numeric: true, nowrap: true, cell: (row) => h(Difference, { value: row.difference }) },
    { label: "", cell: (row) => h(DifferenceBar, { share: (row.difference ?? 0) / most }) },
    { label: "Verdict", cell: (row) => h(Verdict, { passed: row.passed, no: "Failed" }) },
  ];
  return h(
    Panel,
    { title: "Slices", note: `${challenger.metric ?? "The metric"} of each part of the holdout.` },
    rows.length ? h(Table, { label: "Slices", columns, rows }) : h(
      "p",
      { className: "wv-nothing" },
      "No slices are judged: name columns under ",
      h("code", null, "gates.slices.columns"),
      ".",
    ),
  );
}

// worse to the left, better to the right of the middle; the number beside it says the same
function DifferenceBar({ share }) {
  const size = Math.abs(share) * 50;
  return h(
    "svg",
    { className: "wv-diff-bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": true },
    h("rect", { x: share < 0 ? 50 - size : 50, y: 2, width: size, height: 8, className: share < 0 ? "wv-fall-bar" : "wv-up-bar" }),
    h("path", { d: "M50 0V12", className: "wv-axis" }),
  );
}

function Fairness({ challenger }) {
  const columns = [
    { label: "Column", cell: (row) => h(LongText, { length: 80 }, row.column) },
    { label: "Measure", cell: (row) => h(Text, null, row.measure) },
    { label: "Challenger", numeric: true, cell: (row) => formatValue(row.challenger) },
    { label: "Champion", numeric: true, cell: (row) => formatValue(row.champion) },
    { label: "At most", numeric: true, cell: (row) => formatValue(row.at_most) },
    {
      label: "Verdict",
      cell: (row) =>
        isNumber(row.challenger) && isNumber(row.at_most) ? h(Verdict, { passed: row.challenger <= row.at_most, no: "Failed" }) : null,
    },
  ];
  return h(
    Panel,
    { title: "Fairness", note: "Gaps between groups; less is better." },
    h(Table, { label: "Fairness", columns, rows: challenger.fairness }),
  );
}

function Cost({ challenger }) {
  const { latency, size_bytes: size } = challenger;
  const rows = [
    latency
      ? { name: "Latency of one row", challenger: latency.challenger_ms, champion: latency.champion_ms, show: formatMilliseconds }
      : null,
    size ? { name: "Size", challenger: size.challenger, champion: size.champion, show: formatBytes } : null,
  ].filter(Boolean);
  const columns = [
    { label: "", cell: (row) => row.name },
    { label: "Challenger", numeric: true, cell: (row) => row.show(row.challenger) },
    { label: "Champion", numeric: true, cell: (row) => row.show(row.champion) },
    {
      label: "Change",
      numeric: true,
      cell: ({ challenger: value, champion }) => (isNumber(value) && champion > 0 ? signed(value / champion - 1) : null),
    },
  ];
  return h(
    Panel,
    { title: "Latency and size" },
    rows.length ? h(Table, { label: "Latency and size", columns, rows }) : h("p", { className: "wv-nothing" }, "Not measured."),
  );
}

function signed(share) {
  return `${share > 0 ? "+" : share < 0 ? "\u2212" : ""}${formatPercent(Math.abs(share))}`;
}

function ConfigDiff({ challenger }) {
  const lines = challenger.config_diff ?? [];
  return h(
    Panel,
    { title: "Config since the champion" },
    lines.length
      ? h(
          "pre",
          { className: "wv-code wv-diff", tabIndex: 0 },
          lines.map(
            (line, index) => h(
              "span",
              { key: index, className: line.startsWith("+") ? "wv-added" : line.startsWith("-") ? "wv-removed" : undefined },
              `${line}\n`,
            ),
          ),
        )
      : h("p", { className: "wv-nothing" }, isNumber(challenger.against) ? "Nothing changed." : "There is no champion to compare with."),
  );
}
