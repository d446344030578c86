// One window with all that its decision rests on.

import { Badge, Button, DecisionBadge, Facts, Failure, LongText, OutLink, Skeleton, Span, Text, Time } from "./elements.js";
import { DECISIONS, wordOf } from "./words.js";
import { Dialog } from "./dialog.js";
import { forbiddenWhy } from "./action_buttons.js";
import { formatCount, formatPercent, formatValue, formatVersion } from "./format.js";
import { h, useEffect, useState } from "./host.js";
import { countDrifted, interval } from "./performance_chart.js";
import { modelPath, read } from "./api.js";

export function WindowDialog({ model, windowKey, close, act }) {
  const window = model.windows?.find(({ key }) => key === windowKey) ?? null;
  const release = window?.held
    ? h(Button, { primary: true, forbidden: forbiddenWhy(model, "release"), onClick: () => act("release", { window }) }, "Release…")
    : null;
  return h(
    Dialog,
    { title: window ? "Decision about a window" : "There is no such window", close, wide: true, actions: release, leaveLabel: "Close" },
    window ? h(WindowFacts, { window }) : h("p", null, "It may be older than what this page holds: the API has it by its key."),
    h(Evidence, { model: model.model, windowKey }),
  );
}

function WindowFacts({ window }) {
  const { realised, estimated, loss } = window;
  return h(
    "div",
    { className: "wv-stack" },
    h(
      "p",
      { className: "wv-line" },
      h(DecisionBadge, { decision: window.decision }),
      h(Span, window),
      window.held ? h(Badge, { tone: "warn", icon: "warn" }, "Held back") : null,
      window.released ? h(Badge, { tone: "off", icon: "check" }, "Released by a person") : null,
    ),
    h("p", null, h(LongText, { length: 600 }, window.reason)),
    window.alert ? h("p", { className: "wv-alert" }, h(LongText, null, window.alert)) : null,
    h("p", { className: "wv-muted" }, wordOf(DECISIONS, window.decision).means, " Decided ", h(Time, { at: window.decided_at }), "."),
    h(Facts, {
      facts: [
        ["Served by", formatVersion(window.version)],
        ["Rows", formatCount(window.rows)],
        ["With known outcome", formatCount(window.labelled_rows)],
        [`Realised ${window.metric ?? ""}`, realised ? `${formatValue(realised.value)} (${interval(realised)})` : "outcomes are not known"],
        estimated && [
          `Estimated ${window.metric ?? ""}`,
          h(
            "span",
            null,
            `${formatValue(estimated.value)} (${interval(estimated)}), ${estimated.trusted ? "trusted" : "not trusted"}: `,
            h(Text, null, estimated.trust),
          ),
        ],
        loss && [
          "Loss",
          `${formatValue(loss.value)}, expected ${formatValue(loss.expected)}, p ${formatValue(loss.p)}${window.harmed ? ": harm" : ""}`,
        ],
        window.compared
          ? [
              "Drifted",
              `${countDrifted(window)} of ${window.compared} columns, ${formatPercent(countDrifted(window) / window.compared, 0)}`,
            ]
          : null,
      ],
    }),
    h(Lines, { title: "Bad inputs", lines: window.bad_inputs }),
    h(Lines, { title: "What moved, worst first", lines: window.moved?.length ? window.moved : window.drifted }),
    h(Lines, { title: "What a training would bring", lines: window.tried }),
    window.report_url ? h("p", null, h(OutLink, { href: window.report_url }, "Report with all columns")) : null,
  );
}

function Lines({ title, lines }) {
  if (!lines?.length) return null;
  return h(
    "div",
    null,
    h("h4", null, title),
    h("ul", { className: "wv-list" }, lines.map((line, index) => h("li", { key: index }, h(LongText, null, line)))),
  );
}

function Evidence({ model, windowKey }) {
  const [open, setOpen] = useState(false);
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [tries, setTries] = useState(0);
  useEffect(() => {
    if (!open) return undefined;
    const controller = new AbortController();
    setError(null);
    read(modelPath(model, "windows", windowKey), controller.signal).then(setFound, (reason) => {
      if (!controller.signal.aborted) setError(reason);
    });
    return () => controller.abort();
  }, [open, tries, model, windowKey]);
  return h(
    "div",
    null,
    h(Button, { small: true, "aria-expanded": open, onClick: () => setOpen(!open) }, open ? "Hide the evidence" : "All the evidence"),
    open && error ? h(Failure, { error, retry: () => setTries(tries + 1) }) : null,
    open && !found && !error ? h(Skeleton, { lines: 3 }) : null,
    open && found ? h("pre", { className: "wv-code", tabIndex: 0 }, JSON.stringify(found, null, 2)) : null,
  );
}
