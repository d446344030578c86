// What the ledger's rows say about going back: pure functions over the API's releases.

/** The versions that were promoted and not rolled back since, oldest first; the last is the champion. */
function promotedVersions(releases) {
  let stack = [];
  for (const { action, version } of [...releases].reverse()) {
    if (action === "promote") {
      stack.push(version);
    } else if (action === "rollback") {
      const at = stack.indexOf(version);
      stack = [...(at < 0 ? stack : stack.slice(0, at)), version];
    }
  }
  return stack;
}

/** The version that a roll back brings: the champion while another one is rolled out, else the one before it. */
export function versionBefore(model) {
  const stack = promotedVersions(model.releases ?? []);
  if (model.rollout) return model.rollout.champion ?? stack.at(-1) ?? null;
  return stack.findLast((version) => version !== stack.at(-1)) ?? null;
}

/** Whether a version served before: bringing it back is a roll back, which needs no approval and ignores a freeze. */
export function servedBefore(model, version) {
  return (model.releases ?? []).some((row) => row.version === version && (row.action === "promote" || row.action === "rollback"));
}
