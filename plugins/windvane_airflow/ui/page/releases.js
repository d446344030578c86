// What was released when, by whom and why: the ledger, newest first. And what served at a moment.

import { ACTIONS, kindOf, wordOf } from "./words.js";
import { Badge, Button, Empty, LongText, Panel, RunLink, Text, Time } from "./elements.js";
import { formatShares, formatVersion, fromWall, plural, toWall, useZone } from "./format.js";
import { h, useEffect, useMemo, useState } from "./host.js";
import { Icon } from "./shapes.js";
import { modelPath, read } from "./api.js";

const FIRST = 40;
const DAY = 86_400_000;
const WITH_STEPS = ["shift", "promote", "revert", "refuse"];
const PREPOSITIONS = { shift: "towards", revert: "from", rollback: "to", freeze: "at", unfreeze: "at" };

export function ReleasesSection({ model }) {
  const { releases = [] } = model;
  if (releases.length === 0) {
    return h(
      Empty,
      { title: "Nothing was released yet" },
      "The first challenger that passes its gates is deployed and appears here, with the reason.",
    );
  }
  return h("div", { className: "wv-stack" }, h(ServedAt, { model: model.model }), h(Timeline, { releases }));
}

function ServedAt({ model }) {
  const zone = useZone();
  const [moment, setMoment] = useState(() => new Date(toWall(Date.now() - DAY)).toISOString().slice(0, 16));
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);

  // asked as soon as the moment is told, a little after the last key
  useEffect(() => {
    if (!moment) return undefined;
    const controller = new AbortController();
    const ask = async () => {
      try {
        const at = encodeURIComponent(readMoment(moment));
        setFound(await read(`${modelPath(model, "served-at")}?at=${at}`, controller.signal));
        setError(null);
      } catch (reason) {
        if (controller.signal.aborted) return;
        setFound(null);
        setError(reason);
      }
    };
    const timer = setTimeout(ask, 250);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [model, moment, zone]);
  return h(
    Panel,
    { title: "What served at…" },
    h(
      "div",
      { className: "wv-line wv-served" },
      h(
        "label",
        null,
        h("span", { className: "wv-hidden" }, `Moment, in ${zone}`),
        h("input", { type: "datetime-local", value: moment, onChange: (event) => setMoment(event.target.value) }),
      ),
      h("span", { className: "wv-muted" }, zone),
    ),
    h("div", { role: "status" }, error ? h("p", { className: "wv-error" }, error.message) : null, found ? h(Served, { found }) : null),
  );
}

/** What a `datetime-local` field holds, read in the chosen zone. */
export function readMoment(text) {
  return new Date(fromWall(Date.parse(`${text}Z`))).toISOString();
}

function Served({ found }) {
  if (!found.shares?.length) {
    return h("p", null, "Nothing served at ", h(Time, { at: found.at }), found.row ? "." : ": nothing was released before.");
  }
  return h(
    "div",
    { className: "wv-answer" },
    h(
      "p",
      null,
      "At ",
      h(Time, { at: found.at, seconds: true }),
      " served ",
      found.shares.map(({ version, percent, digest }, index) =>
        h(
          "span",
          { key: version, title: digest ? `Bundle ${digest}` : undefined },
          index ? " and " : "",
          h("strong", null, `version ${version}`),
          found.shares.length > 1 ? ` with ${percent}\u202f%` : "",
        ),
      ),
      found.since ? [", since ", h(Time, { key: "since", at: found.since })] : null,
      ".",
    ),
    found.row
      ? h(
          "p",
          { className: "wv-muted" },
          wordOf(ACTIONS, found.row.action).label,
          " by ",
          h(Text, null, found.row.actor),
          ": ",
          h(LongText, null, found.row.reason),
        )
      : null,
  );
}

function Timeline({ releases: rows }) {
  const [all, setAll] = useState(false);
  const releases = useMemo(() => foldSteps(rows), [rows]);
  const shown = all ? releases : releases.slice(0, FIRST);
  return h(
    Panel,
    { title: "Releases", note: "Every change of what serves, and every refusal. Newest first." },
    h(
      "ol",
      { className: "wv-timeline" },
      shown.map(({ row, steps }, index) => h(Row, { key: row.epoch, row, steps, newest: index === 0 })),
    ),
    releases.length > shown.length ? h(Button, { small: true, onClick: () => setAll(true) }, `Show all ${releases.length}`) : null,
  );
}

/** Rows with the steps that led to them: the shifts of the same version right before. */
function foldSteps(rows) {
  const folded = [];
  for (const row of rows) {
    const last = folded.at(-1);
    if (row.action === "shift" && last?.row.version === row.version && WITH_STEPS.includes(last.row.action)) last.steps.push(row);
    else folded.push({ row, steps: [] });
  }
  return folded;
}

function Row({ row, steps, newest }) {
  const word = wordOf(ACTIONS, row.action);
  return h(
    "li",
    { className: `wv-event wv-${word.tone}` },
    h("span", { className: "wv-event-sign" }, h(Icon, { name: word.icon })),
    h(
      "div",
      { className: "wv-event-body" },
      h(
        "div",
        { className: "wv-line" },
        h("strong", null, [word.label, PREPOSITIONS[row.action] ?? "", formatVersion(row.version)].filter(Boolean).join(" ")),
        h("span", { className: "wv-muted" }, formatShares(row.traffic)),
        h("span", { className: "wv-grow" }),
        h("span", { className: "wv-muted" }, h(Time, { at: row.at }), " · ", h(Time, { at: row.at, relative: true })),
      ),
      h("p", null, h(LongText, null, row.reason)),
      h(
        "div",
        { className: "wv-line wv-muted" },
        row.user || !row.run ? h("span", null, "by ", h(Text, null, row.user ?? row.actor)) : null,
        row.run ? h(RunLink, { run: row.run }, `Run of ${kindOf(row.run.dag_id)}`) : null,
        row.digest ? h("span", { title: `Bundle ${row.digest}` }, "bundle ", h("code", null, String(row.digest).slice(0, 12))) : null,
        h("span", { title: "Number of the row in the release ledger" }, `#${row.epoch}`),
        row.until && newest ? h("span", null, "until ", h(Time, { at: row.until, seconds: true })) : null,
      ),
      row.approval
        ? h(
            "p",
            { className: "wv-line" },
            h(Icon, { name: "person" }),
            h(
              "span",
              null,
              "Approved by ",
              h(Text, null, row.approval.by),
              " ",
              h(Time, { at: row.approval.at }),
              row.approval.reason ? [": ", h(LongText, { key: "why" }, row.approval.reason)] : null,
            ),
          )
        : null,
      h(Steps, { steps }),
      h(Checks, { checks: row.checks }),
    ),
  );
}

function Steps({ steps }) {
  if (steps.length === 0) return null;
  return h(
    "details",
    null,
    h("summary", { className: "wv-muted" }, plural(steps.length, "step")),
    h(
      "ol",
      { className: "wv-list" },
      [...steps].reverse().map((step) =>
        h(
          "li",
          { key: step.epoch },
          h(Time, { at: step.at, seconds: true }),
          " ",
          h("span", { className: "wv-muted" }, formatShares(step.traffic)),
          " ",
          h("span", { className: "wv-muted", title: "Number of the row in the release ledger" }, `#${step.epoch}`),
        ),
      ),
    ),
  );
}

const VERDICTS = {
  advance: ["good", "check"],
  pass: ["good", "check"],
  passed: ["good", "check"],
  revert: ["bad", "cross"],
  fail: ["bad", "cross"],
  failed: ["bad", "cross"],
};

function Checks({ checks }) {
  if (!checks?.length) return null;
  return h(
    "details",
    null,
    h("summary", { className: "wv-muted" }, checks.length === 1 ? "1 check" : `${checks.length} checks`),
    h(
      "ul",
      { className: "wv-list" },
      checks.map((check, index) => {
        const [tone, icon] = Object.hasOwn(VERDICTS, check.verdict ?? "") ? VERDICTS[check.verdict] : ["off", "circle"];
        return h(
          "li",
          { key: index },
          h(Badge, { tone, icon }, check.verdict),
          " ",
          h(Text, { className: "wv-strong" }, check.name),
          " ",
          h(LongText, null, check.reason),
        );
      }),
    ),
  );
}
