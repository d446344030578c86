// What a person should know and do now.

import { Badge, Button, DecisionBadge, Empty, Facts, LongText, OutLink, Panel, RunLink, Span, Text, Time } from "./elements.js";
import { approvalPath } from "./elements.js";
import { DECISIONS, kindOf, wordOf } from "./words.js";
import { forbiddenWhy } from "./action_buttons.js";
import { formatBytes, formatSeconds, formatVersion, plural } from "./format.js";
import { h, Link, useState } from "./host.js";
import { Icon } from "./shapes.js";
import { modelPath } from "./api.js";
import { PerformanceChart } from "./performance_chart.js";

export function NowSection({ model, act, openWindow }) {
  if (model.state === "never_trained" && !model.versions?.length) return h(NeverTrained, { model, act });
  const newest = model.windows?.at(-1) ?? null;
  return h(
    "div",
    { className: "wv-columns" },
    h(
      "div",
      { className: "wv-stack" },
      h(ToDo, { model, act, openWindow }),
      h(Serving, { model }),
      h(Latest, { model, newest, openWindow }),
    ),
    h(
      "div",
      { className: "wv-stack" },
      h(PerformanceChart, { model, openWindow, height: 220 }),
      h(Places, { model }),
      h(Config, { model }),
    ),
  );
}

function NeverTrained({ model, act }) {
  const forbidden = forbiddenWhy(model, "train");
  const hasData = (model.batches ?? []).some(({ rows }) => rows > 0);
  return h(
    Empty,
    {
      title: "No version was trained yet",
      actions: h(Button, { primary: true, icon: "play", forbidden, onClick: () => act("train") }, "Train now"),
    },
    hasData ? "There is data. " : h("span", null, "Run ", h(Dag, { model, kind: "ingest" }), " first, so that there is data. "),
    "Then train: the first challenger that passes its gates is deployed and serves.",
  );
}

function Dag({ model, kind }) {
  const dag = `${model.model}__${kind}`;
  return h(Link, { className: "wv-link", to: `/dags/${encodeURIComponent(dag)}` }, dag);
}

function ToDo({ model, act, openWindow }) {
  const todo = whatToDo(model, act, openWindow);
  return h(
    Panel,
    { title: "What needs to be done" },
    todo.length
      ? h(
          "ul",
          { className: "wv-todo" },
          todo.map(
            ({ key, icon, tone, text, action }) => h(
              "li",
              { key, className: `wv-${tone}` },
              h(Icon, { name: icon }),
              h("div", null, text),
              action ?? null,
            ),
          ),
        )
      : h(
          "p",
          { className: "wv-line" },
          h(Badge, { tone: "good", icon: "check" }, "Nothing"),
          h("span", { className: "wv-muted" }, nextText(model)),
        ),
  );
}

function nextText({ next_run: next }) {
  if (!next) return "No run is planned.";
  return h("span", null, "Next is ", kindOf(next.dag_id), " ", h(Time, { at: next.at, relative: true, past: "which is due" }), ".");
}

function whatToDo(model, act, openWindow) {
  const button = (action, label, args) => h(
    Button,
    { small: true, forbidden: forbiddenWhy(model, action), onClick: () => act(action, args) },
    label,
  );
  const todo = [];
  const add = (key, icon, tone, text, action) => todo.push({ key, icon, tone, text, action });

  if (model.problems?.length) add("config", "cross", "bad", `Mend the config: ${plural(model.problems.length, "problem")}, listed above.`);
  if (model.approval) {
    const answer = h(Link, { className: "wv-button wv-small wv-primary", to: approvalPath(model.approval) }, "Look and answer");
    add(
      "approval",
      "person",
      "warn",
      h(
        "span",
        null,
        "Approve or reject the challenger. Its gates are on ",
        h(Link, { className: "wv-link", to: "?tab=challenger", replace: true }, "Challenger"),
        ".",
      ),
      answer,
    );
  }
  for (const run of model.failed ?? []) {
    add(run.run_id, "cross", "bad", h("span", null, `Look why ${kindOf(run.dag_id)} failed: `, h(RunLink, { run }, "its run"), "."));
  }
  const { decision } = model;
  const held = (model.windows ?? []).filter((each) => each.held);
  const newest = held.find(({ key }) => key === decision?.window_key);
  if (newest) {
    const text = h(
      "span",
      null,
      "Mend the data of ",
      h(Span, newest),
      " at its source and ingest it again, or release it if it is good. ",
      more(newest, openWindow),
    );
    add("held", "warn", "bad", text, button("release", "Release…", { window: newest }));
  }
  const windowOf = decision && (model.windows ?? []).find(({ key }) => key === decision.window_key);
  if (["retrain", "recalibrate"].includes(decision?.decision) && model.state === "degraded") {
    const training = (model.running ?? []).find(({ dag_id }) => dag_id.endsWith("__train"));
    if (training) add("training", "steps", "busy", h("span", null, "A training runs: ", h(RunLink, { run: training }, "follow it"), "."));
    else add(
      "train",
      "down",
      "warn",
      h(
        "span",
        null,
        `It was decided to ${decision.decision}, and nothing newer was promoted. `,
        windowOf ? more(windowOf, openWindow) : null,
      ),
      button("train", "Train now"),
    );
  }
  const older = held.length - (newest ? 1 : 0);
  if (older > 0) {
    const link = h(Link, { className: "wv-link", to: "?tab=data", replace: true }, `${plural(older, "window")}${newest ? " more" : ""}`);
    add("older", "info", "off", h("span", null, "Nothing is trained on ", link, " of earlier data, unless you release it."));
  }
  if (model.state === "not_serving") add(
    "serve",
    "stop",
    "warn",
    "Nothing serves. Deploy a version, or roll back.",
    button("deploy", "Deploy…"),
  );
  if (model.rollout) add(
    "rollout",
    "steps",
    "busy",
    `Watch the rollout of version ${model.rollout.version} above. It goes back by itself if it is worse.`,
  );
  return todo;
}

function more(window, openWindow) {
  return h("button", { type: "button", className: "wv-link", onClick: () => openWindow(window.key) }, "Why?");
}

function Serving({ model }) {
  const version = model.versions?.find((each) => each.version === model.version);
  const last = model.releases?.[0] ?? model.last_release;
  return h(
    Panel,
    { title: "What serves" },
    h(Facts, {
      facts: [
        ["Version", h("strong", null, formatVersion(model.version))],
        [
          "Since",
          h(
            "span",
            null,
            h(Time, { at: model.since }),
            " ",
            h("span", { className: "wv-muted" }, h(Time, { at: model.since, relative: true })),
          ),
        ],
        version && ["Trained on", h(Span, { start: version.train_start, end: version.train_end })],
        version && ["Judged on", h(Span, { start: version.holdout_start, end: version.holdout_end })],
        version && ["Training took", formatSeconds(version.seconds)],
        version && ["Size", formatBytes(version.size_bytes)],
        version?.run && ["Trained by", h(RunLink, { run: version.run })],
        version?.mlflow_url && ["In MLflow", h(OutLink, { href: version.mlflow_url }, "Run and files")],
        last && [
          "Last release",
          h("span", null, h(Text, null, last.reason), " ", h("span", { className: "wv-muted" }, h(Time, { at: last.at, relative: true }))),
        ],
      ],
    }),
  );
}

function Latest({ model, newest, openWindow }) {
  if (!newest) {
    return h(
      Panel,
      { title: "Latest decision" },
      h(
        "p",
        { className: "wv-nothing" },
        "No window was looked at yet. ",
        h(Dag, { model, kind: "monitor" }),
        " decides after each batch of data.",
      ),
    );
  }
  const word = wordOf(DECISIONS, newest.decision);
  return h(
    Panel,
    { title: "Latest decision", actions: h(Button, { small: true, onClick: () => openWindow(newest.key) }, "Evidence") },
    h(
      "p",
      { className: "wv-line" },
      h(DecisionBadge, { decision: newest.decision }),
      h("span", { className: "wv-muted" }, "about ", h(Span, newest)),
    ),
    h("p", null, h(LongText, null, newest.reason)),
    newest.alert ? h("p", { className: "wv-line wv-alert" }, h(Icon, { name: "warn" }), h(LongText, null, newest.alert)) : null,
    h("p", { className: "wv-muted" }, word.means, " ", h(Outcomes, { windows: model.windows })),
    newest.report_url ? h("p", null, h(OutLink, { href: newest.report_url }, "Drift report")) : null,
  );
}

/** Since when outcomes are unknown, where they are late. */
export function Outcomes({ windows }) {
  const newest = windows.at(-1);
  if (!newest || newest.realised) return null;
  const last = windows.findLast(({ realised }) => realised);
  return last
    ? h("span", null, "Outcomes are unknown since ", h(Time, { at: last.end }), ".")
    : h("span", null, "No outcome is known yet; it is unknown since ", h(Time, { at: windows[0].start }), ".");
}

function Places({ model }) {
  const dags = Object.keys(model.links?.dags ?? {});
  return h(
    Panel,
    { title: "Elsewhere" },
    h(
      "p",
      { className: "wv-line wv-places" },
      dags.map(
        (kind) => h(Link, { key: kind, className: "wv-link", to: model.links.dags[kind] }, h("bdi", null, `${model.model}__${kind}`)),
      ),
      model.links?.mlflow ? h(OutLink, { href: model.links.mlflow }, "Versions in MLflow") : null,
      h(OutLink, { href: `/windvane/api/${modelPath(model.model)}` }, "This page as JSON"),
    ),
  );
}

function Config({ model }) {
  const [open, setOpen] = useState(false);
  if (!model.config) return null;
  const toggle = h(Button, { small: true, "aria-expanded": open, onClick: () => setOpen(!open) }, open ? "Hide" : "Show");
  return h(
    Panel,
    { title: "Config", actions: toggle },
    open ? h("pre", { className: "wv-code", tabIndex: 0 }, model.config) : h(
      "p",
      { className: "wv-muted" },
      h("code", null, `dags/configs/${model.model}.yaml`),
    ),
  );
}
