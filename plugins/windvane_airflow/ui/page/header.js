// The strip of facts under a model's name: the same on every tab.

import { DecisionBadge, Metric, RunLink, Text, Time } from "./elements.js";
import { formatShares, formatVersion, NOTHING } from "./format.js";
import { h } from "./host.js";
import { kindOf } from "./words.js";
import { Sparkline } from "./sparkline.js";

export function Header({ model }) {
  const { decision, last_release: last, metric } = model;
  const split = Object.values(model.traffic ?? {}).filter((percent) => percent > 0).length > 1;
  return h(
    "div",
    { className: "wv-stats" },
    h(
      Stat,
      { label: "Serves" },
      h("strong", null, formatVersion(model.version)),
      model.since
        ? h(
            "span",
            { className: "wv-muted" },
            " since ",
            h(Time, { at: model.since }),
            " (",
            h(Time, { at: model.since, relative: true }),
            ")",
          )
        : null,
      split
        ? h("div", { className: "wv-muted" }, formatShares(model.traffic))
        : null,
    ),
    h(Stat, { label: "Why" }, h(Text, { lines: 3 }, why(model) ?? last?.reason)),
    h(
      Stat,
      { label: metric ? metric.name : "Metric" },
      metric
        ? h("div", { className: "wv-metric-cell" }, h(Metric, { metric }), h(Sparkline, { points: model.sparkline, name: metric.name }))
        : NOTHING,
    ),
    h(
      Stat,
      { label: "Last decision" },
      decision
        ? h(
            "div",
            null,
            h(DecisionBadge, { decision: decision.decision }),
            " ",
            h("span", { className: "wv-muted" }, h(Time, { at: decision.decided_at, relative: true })),
          )
        : NOTHING,
      decision ? h(Text, { lines: 2, className: "wv-muted" }, decision.reason) : null,
    ),
    h(Stat, { label: "Runs" }, h(Runs, { model })),
  );
}

function Stat({ label, children }) {
  return h("div", { className: "wv-stat" }, h("h3", { className: "wv-muted" }, label), h("div", null, children));
}

/** Why the version that serves does: what was said when it was promoted or rolled back to. */
function why({ releases, version }) {
  return releases?.find((row) => row.version === version && (row.action === "promote" || row.action === "rollback"))?.reason;
}

function Runs({ model }) {
  const running = (model.running ?? []).slice(0, 2);
  const failed = (model.failed ?? []).slice(0, 2);
  return [
    ...running.map(
      (run) => h(
        "div",
        { key: run.run_id },
        h(RunLink, { run }, `${kindOf(run.dag_id)} runs`),
        " ",
        h("span", { className: "wv-muted" }, "started ", h(Time, { at: run.since, relative: true })),
      ),
    ),
    ...failed.map(
      (run) => h(
        "div",
        { key: run.run_id, className: "wv-bad-text" },
        h(RunLink, { run }, `${kindOf(run.dag_id)} failed`),
        " ",
        h("span", { className: "wv-muted" }, h(Time, { at: run.at, relative: true })),
      ),
    ),
    model.next_run
      ? h(
          "div",
          { key: "next" },
          h("span", { className: "wv-muted" }, "Next: "),
          kindOf(model.next_run.dag_id),
          " ",
          h("span", { className: "wv-muted" }, h(Time, { at: model.next_run.at, relative: true, past: "is due" })),
        )
      : running.length || failed.length
        ? null
        : h("span", { key: "none", className: "wv-muted" }, "Nothing is planned"),
  ];
}
