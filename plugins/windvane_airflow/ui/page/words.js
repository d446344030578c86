// What the API's words are called on the page, in which tone, and with which sign: never by colour alone.

export const STATES = {
  config_error: { label: "Config error", tone: "bad", icon: "cross" },
  degraded: { label: "Degraded", tone: "bad", icon: "down" },
  waiting_for_approval: { label: "Waiting for approval", tone: "warn", icon: "person" },
  rolling_out: { label: "Rolling out", tone: "busy", icon: "steps" },
  not_serving: { label: "Not serving", tone: "off", icon: "stop" },
  never_trained: { label: "Never trained", tone: "off", icon: "circle" },
  serving: { label: "Serving", tone: "good", icon: "check" },
};

export const DECISIONS = {
  ok: { label: "ok", tone: "good", shape: "dot", means: "The champion does what it did in its training." },
  wait: { label: "wait", tone: "off", shape: "ring", means: "Too little is known, or it may pass, or the cooldown is not over." },
  ignore: { label: "ignore", tone: "off", shape: "bar", means: "Drift without harm, or harm that no training repairs." },
  recalibrate: { label: "recalibrate", tone: "warn", shape: "diamond", means: "The ranking holds, the level does not." },
  retrain: { label: "retrain", tone: "warn", shape: "triangle", means: "A refit is better beyond noise on the newest rows." },
  fix_data: { label: "fix data", tone: "bad", shape: "cross", means: "The data is broken; nothing is trained on it." },
};

export const ACTIONS = {
  shift: { label: "Traffic moved", tone: "busy", icon: "steps" },
  promote: { label: "Promoted", tone: "good", icon: "check" },
  revert: { label: "Reverted", tone: "bad", icon: "back" },
  rollback: { label: "Rolled back", tone: "warn", icon: "back" },
  refuse: { label: "Refused", tone: "bad", icon: "cross" },
  freeze: { label: "Frozen", tone: "busy", icon: "snow" },
  unfreeze: { label: "Unfrozen", tone: "off", icon: "sun" },
};

export const KINDS = {
  realised: { label: "realised", shape: "dot", means: "Measured on outcomes that are known." },
  estimated: { label: "estimated", shape: "diamond", means: "Estimated without outcomes; they are not known yet." },
  holdout: { label: "holdout", shape: "ring", means: "Measured on the holdout of its training; nothing newer is known." },
};

export const RUNS = {
  success: { label: "success", tone: "good", icon: "check" },
  failed: { label: "failed", tone: "bad", icon: "cross" },
  running: { label: "running", tone: "busy", icon: "steps" },
  queued: { label: "queued", tone: "off", icon: "circle" },
};

export const CHALLENGER = {
  waiting: { label: "Waits", tone: "warn", icon: "person" },
  promoted: { label: "Promoted", tone: "good", icon: "check" },
  refused: { label: "Refused", tone: "bad", icon: "cross" },
  reverted: { label: "Reverted", tone: "bad", icon: "back" },
  superseded: { label: "Superseded", tone: "off", icon: "circle" },
  none: { label: "Not deployed", tone: "off", icon: "circle" },
};

/** A word of the table, or the word itself in a neutral tone: the API may learn new ones. */
export function wordOf(table, word) {
  return Object.hasOwn(table, word) ? table[word] : { label: String(word), tone: "off", icon: "circle", shape: "ring", means: "" };
}

/** `train` of `flights__train`. */
export function kindOf(dag) {
  return String(dag).split("__").at(-1);
}
