// A rollout under way, old beside new, read again every two seconds while it lasts.

import { Button, RunLink, Text, Time } from "./elements.js";
import { formatCount, formatMilliseconds, formatPercent, formatSeconds, NOTHING, useNow } from "./format.js";
import { h } from "./host.js";
import { Icon } from "./shapes.js";

export function Rollout({ rollout, runs, act, forbidden }) {
  useNow();
  const run = runs?.find(({ dag_id }) => dag_id.endsWith("__deploy"));
  const rows = [
    [rollout.champion, "serves"],
    [rollout.version, "new"],
  ].filter(([version]) => version !== null && version !== undefined);
  return h(
    "section",
    { className: "wv-rollout", "aria-label": `Rollout of version ${rollout.version}` },
    h(
      "header",
      { className: "wv-line" },
      h(Icon, { name: "steps" }),
      h("strong", null, `Version ${rollout.version} is being rolled out`),
      h("span", { className: "wv-muted" }, "this step began ", h(Time, { at: rollout.began, relative: true })),
      h("span", { className: "wv-grow" }),
      run ? h(RunLink, { run }, "Open the run") : null,
      h(Button, { small: true, icon: "back", forbidden, onClick: () => act("rollback") }, "Stop and go back"),
    ),
    h(Steps, { rollout }),
    h(
      "div",
      { className: "wv-scroll", tabIndex: 0, role: "region", "aria-label": "Figures of old and new" },
      h(
        "table",
        { className: "wv-table" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            ["", "Traffic", "Requests", "Failed", "Refused", "Error rate", "Median", "99th percentile"].map(
              (name) => h("th", { key: name, scope: "col", className: name ? "wv-number" : undefined }, name),
            ),
          ),
        ),
        h("tbody", null, rows.map(([version, role]) => h(Figures, { key: version, version, role, figures: rollout.figures?.[version] }))),
      ),
    ),
    h("p", null, h(Verdict, { verdict: rollout.verdict }), " ", h(Text, { className: "wv-muted" }, rollout.reason)),
  );
}

function Steps({ rollout }) {
  const steps = rollout.steps ?? [];
  const share = rollout.bake_seconds ? Math.min(1, rollout.elapsed_seconds / rollout.bake_seconds) : 0;
  const spent = `${formatSeconds(rollout.elapsed_seconds)} of ${formatSeconds(rollout.bake_seconds)}`;
  const text = `Step ${rollout.step} of ${steps.length}: ${rollout.percent} % of the traffic, for ${spent}`;
  return h(
    "div",
    { className: "wv-steps" },
    h(
      "ol",
      { "aria-label": "Steps of the rollout" },
      steps.map((percent, index) => {
        const state = index + 1 < rollout.step ? "done" : index + 1 === rollout.step ? "current" : "next";
        return h(
          "li",
          { key: index, className: `wv-step wv-step-${state}`, "aria-current": state === "current" ? "step" : undefined },
          h(
            "span",
            { className: "wv-step-bar" },
            h("span", { style: { inlineSize: `${state === "done" ? 100 : state === "current" ? share * 100 : 0}%` } }),
          ),
          `${percent}\u202f%`,
        );
      }),
    ),
    h("span", { className: "wv-muted" }, text, rollout.limit_seconds ? `; at most ${formatSeconds(rollout.limit_seconds)}` : ""),
  );
}

function Figures({ version, role, figures }) {
  const cell = (value) => h("td", { className: "wv-number" }, value);
  return h(
    "tr",
    null,
    h("th", { scope: "row" }, `v${version} `, h("span", { className: "wv-muted" }, role)),
    cell(figures ? `${figures.percent}\u202f%` : NOTHING),
    cell(formatCount(figures?.requests)),
    cell(formatCount(figures?.failed)),
    cell(formatCount(figures?.refused)),
    cell(formatPercent(figures?.error_rate, 2)),
    cell(formatMilliseconds(figures?.p50_ms)),
    cell(formatMilliseconds(figures?.p99_ms)),
  );
}

const VERDICTS = { advance: "Good so far.", revert: "It goes back.", inconclusive: "Not enough is known yet." };

function Verdict({ verdict }) {
  return h("strong", null, Object.hasOwn(VERDICTS, verdict ?? "") ? VERDICTS[verdict] : "");
}
