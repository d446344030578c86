// What a person can do about a model, always in the same place.

import { Button } from "./elements.js";
import { h } from "./host.js";
import { versionBefore } from "./releases_past.js";

const FORBIDDEN = "You may look at this model and not act on it: that takes the permission to trigger its DAGs.";

/** Why a button cannot be pressed, or null. */
export function forbiddenWhy(model, action) {
  if (!model.can_act) return FORBIDDEN;
  if (model.state === "config_error" && action !== "freeze") return "The config has errors, so the model has no DAGs to run.";
  if (action === "deploy" && model.versions?.length === 0) return "No version was trained yet.";
  if (action === "rollback" && !model.rollout && versionBefore(model) === null) return "There is no earlier version that served.";
  if (action === "freeze" && model.releases?.length === 0) return "Nothing was ever released, so there is nothing to freeze.";
  return null;
}

export function ActionButtons({ model, act }) {
  const button = (action, label, icon, more = {}) =>
    h(
      Button,
      { key: action, icon, forbidden: forbiddenWhy(model, action), onClick: () => act(action), "aria-haspopup": "dialog", ...more },
      label,
    );
  const fresh = model.state === "never_trained";
  return h(
    "div",
    { className: "wv-actions" },
    button("train", "Train now", "play", { primary: fresh }),
    button("monitor", "Monitor", "eye"),
    button("deploy", "Deploy…", "rocket"),
    button("rollback", "Roll back", "back"),
    model.frozen ? button("unfreeze", "Unfreeze", "sun") : button("freeze", "Freeze", "snow"),
  );
}
