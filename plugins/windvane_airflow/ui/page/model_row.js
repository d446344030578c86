// One model in the overview.

import { approvalPath, DecisionBadge, Metric, Owner, RunLink, StateBadge, Tags, Text, Time, Badge } from "./elements.js";
import { formatShares, formatVersion, NOTHING, shorten } from "./format.js";
import { Fragment, h, Link, memo } from "./host.js";
import { Icon } from "./shapes.js";
import { kindOf } from "./words.js";
import { Sparkline } from "./sparkline.js";

export const ModelRow = memo(function ModelRow({ row, hidden }) {
  return h("div", { role: "row", className: "wv-model-row", hidden }, h(Cells, { row }));
});

const Cells = memo(function Cells({ row }) {
  return h(
    Fragment,
    null,
    h(Cell, { label: "Model" }, h(NameCell, { row })),
    h(Cell, { label: "State" }, h(StateCell, { row })),
    h(Cell, { label: "Serves", empty: row.version === null }, h(ServesCell, { row })),
    h(Cell, { label: "Metric", empty: !row.metric }, h(MetricCell, { row })),
    h(Cell, { label: "Decision", empty: !row.decision }, h(DecisionCell, { row })),
    h(Cell, { label: "Next run", empty: !row.next_run && !row.running?.length && !row.failed?.length }, h(NextCell, { row })),
  );
});

// narrow windows label each cell and leave out the empty ones
function Cell({ label, empty = false, children }) {
  return h("div", { role: "cell", "data-label": label, "data-empty": empty || undefined }, children);
}

function pathOf(model, tab) {
  return `/plugin/models/${encodeURIComponent(model)}${tab ? `?tab=${tab}` : ""}`;
}

function NameCell({ row }) {
  const tags = row.tags ?? [];
  return [
    h(Link, { key: "name", className: "wv-name", to: pathOf(row.model), title: shorten(row.model, 300) }, h("bdi", null, row.model)),
    row.description ? h(Text, { key: "text", lines: 1, className: "wv-muted" }, row.description) : null,
    row.owner || tags.length ? h("div", { key: "who", className: "wv-line" }, h(Owner, { name: row.owner }), h(Tags, { tags })) : null,
  ];
}

function StateCell({ row }) {
  const quiet = row.state === "serving";
  return [
    h(
      "div",
      { key: "state", className: "wv-line" },
      h(StateBadge, { state: row.state }),
      row.frozen
        ? h(Badge, { tone: "busy", icon: "snow", title: `Frozen by ${row.frozen.by}: ${shorten(row.frozen.reason, 500)}` }, "Frozen")
        : null,
      row.paused?.length ? h(Badge, { tone: "off", title: row.paused.join(", ") }, "Paused") : null,
    ),
    quiet ? null : h(Text, { key: "why", lines: 2, className: "wv-muted" }, row.state_reason),
    row.approval ? h(ApprovalLink, { key: "approval", approval: row.approval }) : null,
  ];
}

function ApprovalLink({ approval }) {
  return h(
    "div",
    { className: "wv-line" },
    h(
      Link,
      { className: "wv-link wv-strong", to: approvalPath(approval), title: shorten(approval.subject ?? "", 300) },
      "Approve or reject",
    ),
    h("span", { className: "wv-muted" }, "asked ", h(Time, { at: approval.since, relative: true })),
  );
}

function ServesCell({ row }) {
  if (row.version === null || row.version === undefined) return h("span", { className: "wv-muted" }, NOTHING);
  const split = Object.values(row.traffic ?? {}).filter((percent) => percent > 0).length > 1;
  return [
    h("div", { key: "version" }, h("strong", null, formatVersion(row.version))),
    h("div", { key: "since", className: "wv-muted" }, h(Time, { at: row.since, relative: true })),
    split
      ? h("div", { key: "traffic", className: "wv-muted" }, formatShares(row.traffic))
      : null,
  ];
}

function MetricCell({ row }) {
  if (!row.metric) return h("span", { className: "wv-muted" }, NOTHING);
  return h(
    "div",
    { className: "wv-metric-cell" },
    h("div", null, h(Metric, { metric: row.metric }), h(Text, { lines: 1, className: "wv-muted" }, row.metric.name)),
    h(Sparkline, { points: row.sparkline, name: row.metric.name }),
  );
}

function DecisionCell({ row }) {
  const { decision } = row;
  if (!decision) return h("span", { className: "wv-muted" }, NOTHING);
  return [
    h(
      "div",
      { key: "word", className: "wv-line" },
      h(DecisionBadge, { decision: decision.decision }),
      h("span", { className: "wv-muted" }, h(Time, { at: decision.decided_at, relative: true })),
    ),
    h(Text, { key: "why", lines: 2, className: "wv-muted" }, decision.reason),
  ];
}

function NextCell({ row }) {
  const running = row.running?.[0];
  const failed = row.failed?.[0];
  return [
    running
      ? h(
          "div",
          { key: "running", className: "wv-line" },
          h(RunLink, { run: running }, h(Icon, { name: "steps" }), ` ${kindOf(running.dag_id)} runs`),
          row.running.length > 1 ? h("span", { className: "wv-muted" }, `+${row.running.length - 1}`) : null,
        )
      : null,
    failed
      ? h(
          "div",
          { key: "failed", className: "wv-line wv-bad-text" },
          h(RunLink, { run: failed }, h(Icon, { name: "cross" }), ` ${kindOf(failed.dag_id)} failed`),
        )
      : null,
    row.next_run
      ? h(
          "div",
          { key: "next" },
          h(Text, null, kindOf(row.next_run.dag_id)),
          " ",
          h("span", { className: "wv-muted" }, h(Time, { at: row.next_run.at, relative: true, past: "is due" })),
        )
      : running || failed
        ? null
        : h("span", { key: "none", className: "wv-muted" }, NOTHING),
  ];
}
