// What a person should see before anything else: problems, a freeze, a question that waits, a rollout under way.

import { approvalPath, Banner, Button, LongText, Text, Time } from "./elements.js";
import { forbiddenWhy } from "./action_buttons.js";
import { h, Link } from "./host.js";
import { Rollout } from "./rollout.js";

export function Banners({ model, act }) {
  const banners = [
    model.problems?.length ? h(Problems, { key: "problems", model }) : null,
    model.approval ? h(Approval, { key: "approval", approval: model.approval }) : null,
    model.rollout
      ? h(Rollout, { key: "rollout", rollout: model.rollout, runs: model.running, act, forbidden: forbiddenWhy(model, "rollback") })
      : null,
    model.frozen ? h(Frozen, { key: "frozen", model, act }) : null,
    model.paused?.length ? h(Paused, { key: "paused", model }) : null,
    model.can_act ? null : h(Banner, { key: "viewer", icon: "eye" }, "You may look at this model and not act on it."),
  ].filter(Boolean);
  return banners.length ? h("div", { className: "wv-banners" }, banners) : null;
}

function Problems({ model }) {
  return h(
    Banner,
    { tone: "bad", icon: "cross", title: "The config cannot be used" },
    h(
      "ul",
      { className: "wv-problems" },
      model.problems.map((line, index) => h("li", { key: index }, h("code", null, h("bdi", null, line)))),
    ),
    h(
      "span",
      { className: "wv-muted" },
      "Mend the file; the DAGs come back within seconds. What serves goes on serving. ",
      h("code", null, "windvane check"),
      " says the same before you save it.",
    ),
  );
}

function Approval({ approval }) {
  const answer = h(Link, { className: "wv-button wv-primary", to: approvalPath(approval) }, "Look and answer");
  return h(
    Banner,
    { tone: "warn", icon: "person", title: "A challenger waits for an approval", actions: answer },
    h(Text, null, approval.subject),
    h(
      "span",
      { className: "wv-muted" },
      "Asked ",
      h(Time, { at: approval.since, relative: true }),
      ". Without an answer it is never promoted.",
    ),
  );
}

function Frozen({ model, act }) {
  const { frozen } = model;
  const unfreeze = h(Button, { small: true, forbidden: forbiddenWhy(model, "freeze"), onClick: () => act("unfreeze") }, "Unfreeze…");
  return h(
    Banner,
    { tone: "busy", icon: "snow", title: "Promotions are frozen", actions: unfreeze },
    h(LongText, null, frozen.reason),
    h(
      "span",
      { className: "wv-muted" },
      "By ",
      h(Text, null, frozen.by),
      " ",
      h(Time, { at: frozen.since, relative: true }),
      ". Only a roll back changes what serves.",
    ),
  );
}

function Paused({ model }) {
  const links = model.paused.map((dag, index) => [
    index ? ", " : "",
    h(Link, { key: dag, className: "wv-link", to: `/dags/${encodeURIComponent(dag)}` }, dag),
  ]);
  return h(Banner, { icon: "stop", title: "Paused in Airflow" }, h("span", null, ...links.flat(), ": runs wait until somebody unpauses."));
}
