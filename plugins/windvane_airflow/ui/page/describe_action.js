// What each action asks, says and does. A DAG run goes through Airflow's own API; a freeze is a row of the release ledger.

import { formatWindow, plural, shorten } from "./format.js";
import { modelPath, trigger, write } from "./api.js";
import { readMoment } from "./releases.js";
import { runPath } from "./elements.js";
import { servedBefore, versionBefore } from "./releases_past.js";

const MAX_REASON = 500;

/** Title, text, warnings, fields and the call itself; `missing` says what keeps it from being confirmed. */
export function describeAction(name, { model, args, values }) {
  const about = ACTIONS[name](model, args, values);
  return { fields: [], warnings: [], missing: "", danger: false, ...about };
}

const ACTIONS = {
  train(model, args, values) {
    const window = windowOf(values);
    return {
      title: `Train ${model.model} now?`,
      confirm: "Train now",
      text: [
        `Starts a run of ${model.model}__train on ${window.text ? `the rows of ${window.text}` : "the window that its config asks for"}.`,
        `It trains a challenger, registers it, and judges it by the gates${model.version ? ` against version ${model.version}` : ""}.`,
        `What serves stays. A challenger that passes its gates starts ${model.model}__deploy by itself.`,
      ],
      warnings: [frozen(model, "it will not be deployed"), paused(model, "train")],
      fields: windowFields("of the rows to train on, holdout included"),
      missing: window.missing,
      run: () => start(model, "train", window.conf),
    };
  },

  monitor(model, args, values) {
    const window = windowOf(values);
    return {
      title: `Look at ${model.model} now?`,
      confirm: "Run the monitor",
      text: [
        `Starts a run of ${model.model}__monitor about ${window.text || "the newest window of data"}.`,
        "It measures drift and performance, and decides.",
        "What serves stays. If it decides to retrain or to recalibrate, a training starts by itself, as always.",
      ],
      warnings: [paused(model, "monitor")],
      fields: windowFields("of the window to look at"),
      missing: window.missing,
      run: () => start(model, "monitor", window.conf),
    };
  },

  deploy(model, args, values) {
    const version = Number(values.version);
    const chosen = (model.versions ?? []).find((each) => each.version === version);
    const back = chosen ? servedBefore(model, version) : false;
    return {
      title: chosen ? `Deploy version ${version} of ${model.model}?` : `Deploy a version of ${model.model}?`,
      confirm: chosen ? `Deploy version ${version}` : "Deploy",
      danger: chosen?.passed === false && !back,
      text: !chosen
        ? ["Choose the version that should serve."]
        : back
          ? [
              `Starts a run of ${model.model}__deploy. Version ${version} served before.`,
              `It is rehearsed and takes all the traffic at once; ${serves(model)}`,
              "The ledger notes it as a roll back, with your name.",
            ]
          : [
              `Starts a run of ${model.model}__deploy. Version ${version} is rehearsed and gets the traffic step by step; ${serves(model)}`,
              "If it is worse, the traffic goes back by itself.",
            ],
      warnings: chosen
        ? [
            chosen.passed === false && !back ? `Its gates refused it: ${shorten(chosen.verdict ?? "no reason is known", 600)}` : "",
            chosen.passed === null && !back ? "Its gates have not judged it." : "",
            back ? "" : frozen(model, "the run will be refused"),
            model.rollout ? `The rollout of version ${model.rollout.version} that is under way will be superseded.` : "",
            paused(model, "deploy"),
          ]
        : [],
      fields: args.version === undefined ? [versionField(model)] : [],
      missing: chosen ? "" : "Choose a version.",
      run: () => start(model, "deploy", { version }),
    };
  },

  rollback(model) {
    const to = versionBefore(model);
    const run = `Starts a run of ${model.model}__deploy`;
    const target = to === null ? "the version before" : `version ${to}`;
    return {
      title: `Roll ${model.model} back to ${target}?`,
      confirm: to === null ? "Roll back" : `Roll back to version ${to}`,
      danger: true,
      text: [
        model.rollout
          ? `${run} that ends the rollout of version ${model.rollout.version}: ${target} gets all the traffic again.`
          : `${run} that brings ${target} back: it is rehearsed and takes all the traffic at once; ${serves(model)}`,
        "No approval and no training is needed. The ledger notes your name.",
      ],
      warnings: [paused(model, "deploy")],
      run: () => start(model, "deploy", { version: "previous" }),
    };
  },

  freeze(model, args, values) {
    return {
      title: `Freeze promotions of ${model.model}?`,
      confirm: "Freeze",
      text: ["Trainings and decisions go on, and nothing new is deployed until somebody unfreezes. A roll back is always possible."],
      warnings: [model.rollout ? `The rollout of version ${model.rollout.version} that is under way will not be promoted.` : ""],
      fields: [reasonField("Why", "It is kept in the release ledger and shown to everybody.")],
      missing: values.reason.trim() ? "" : "Say why.",
      run: () => note(model, "freeze", values.reason),
    };
  },

  unfreeze(model, args, values) {
    const { frozen: held } = model;
    return {
      title: `Unfreeze promotions of ${model.model}?`,
      confirm: "Unfreeze",
      text: [
        ...(held ? [`Frozen by ${shorten(held.by, 200)}: ${shorten(held.reason, 600)}`] : []),
        "From now on, challengers that pass their gates are deployed again.",
      ],
      fields: [reasonField("Why", "It is kept in the release ledger.")],
      missing: values.reason.trim() ? "" : "Say why.",
      run: () => note(model, "unfreeze", values.reason),
    };
  },

  release(model, args, values) {
    const { window } = args;
    return {
      title: `Release ${formatWindow(window.start, window.end)}?`,
      confirm: "Release the window",
      text: [
        `Decided: ${shorten(window.reason, 600)}`,
        `Starts a run of ${model.model}__monitor that notes your reason and decides about the window anew.`,
        `From then on, trainings may use its ${plural(window.rows ?? 0, "row")}.`,
      ],
      warnings: [paused(model, "monitor")],
      fields: [reasonField("Why these rows are good", "It is kept with the window, with your name.")],
      missing: values.reason.trim() ? "" : "Say why these rows are good.",
      run: () => start(model, "monitor", { window_start: window.start, window_end: window.end, release: values.reason.trim() }),
    };
  },
};

async function start(model, kind, conf) {
  const dag = `${model.model}__${kind}`;
  const run = await trigger(dag, conf);
  return { text: `Started ${dag}.`, link: { to: runPath({ dag_id: dag, run_id: run.dag_run_id }), text: "Follow the run" } };
}

async function note(model, verb, reason) {
  await write(modelPath(model.model, verb), { reason: reason.trim() });
  return { text: verb === "freeze" ? `Promotions of ${model.model} are frozen.` : `Promotions of ${model.model} go on.` };
}

function windowFields(what) {
  return [
    { name: "window_start", type: "moment", label: `First moment ${what}`, hint: "Both ends, or neither." },
    { name: "window_end", type: "moment", label: "End, exclusive" },
  ];
}

/** What the two ends say: a run's conf, the same in words, or what is missing. */
function windowOf({ window_start: start, window_end: end }) {
  if (!start && !end) return { conf: {}, text: "", missing: "" };
  if (!start || !end) return { conf: {}, text: "", missing: "Give both ends of the window, or neither." };
  const conf = { window_start: readMoment(start), window_end: readMoment(end) };
  if (conf.window_start >= conf.window_end) return { conf, text: "", missing: "The window must end after it starts." };
  return {
    conf,
    text: `${formatWindow(conf.window_start, conf.window_end)} (in UTC ${utc(conf.window_start)} to ${utc(conf.window_end)})`,
    missing: "",
  };
}

function utc(iso) {
  return iso.replace(/(:00)?\.000Z$/, "Z");
}

function versionField(model) {
  const label = ({ version, passed }) => {
    const verdict = passed === true ? "passed its gates" : passed === false ? "refused by its gates" : "not judged";
    return `Version ${version}: ${verdict}${servedBefore(model, version) ? ", served before" : ""}`;
  };
  const options = (model.versions ?? []).filter(({ version }) => version !== model.version || model.rollout).map(
    (each) => [String(each.version), label(each)],
  );
  return {
    name: "version",
    type: "choice",
    label: "Version",
    required: true,
    options,
    hint: model.version ? `Version ${model.version} serves now.` : "Nothing serves now.",
  };
}

function reasonField(label, hint) {
  return { name: "reason", type: "text", label, hint, required: true, max: MAX_REASON };
}

function serves(model) {
  return model.version ? `version ${model.version} serves until then.` : "nothing serves until then.";
}

function frozen(model, so) {
  return model.frozen ? `Promotions are frozen, so ${so}: ${shorten(model.frozen.reason, 300)}` : "";
}

function paused(model, kind) {
  const dag = `${model.model}__${kind}`;
  return model.paused?.includes(dag) ? `${dag} is paused in Airflow: the run waits until somebody unpauses it.` : "";
}
