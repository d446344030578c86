// The small parts that every section is made of. Text is always given to React as text: data is hostile.

import { DECISIONS, KINDS, STATES, wordOf } from "./words.js";
import { formatExact, formatRelative, formatTime, formatValue, formatWindow, NOTHING, shorten, useNow, useZone } from "./format.js";
import { h, Link, memo, useId, useState } from "./host.js";
import { Icon, Sign } from "./shapes.js";
import { loginUrl, safeUrl } from "./api.js";

const FIRST_ROWS = 50;

/** A moment: how long ago or when exactly, the rest on hover. */
export const Time = memo(function Time({ at, relative = false, seconds = false, past = null }) {
  useZone();
  return at ? h(relative ? RelativeTime : ExactTime, { at, seconds, past }) : NOTHING;
});

function ExactTime({ at, seconds }) {
  return h("time", { dateTime: at, title: formatExact(at) }, formatTime(at, { seconds }));
}

// `past` is said of what was planned and did not happen yet
function RelativeTime({ at, past }) {
  const now = useNow();
  return h("time", { dateTime: at, title: formatExact(at) }, past && Date.parse(at) < now ? past : formatRelative(at, now));
}

/** A window of data time. */
export function Span({ start, end }) {
  useZone();
  if (!start || !end) return NOTHING;
  return h("time", { dateTime: `${start}/${end}`, title: `${formatExact(start)}\n${formatExact(end)}` }, formatWindow(start, end));
}

/** Text of people and models: any direction, any length; what does not fit is shown by its title, or on a click. */
export function Text({ children, lines = 0, className = "" }) {
  const text = children === null || children === undefined || children === "" ? NOTHING : String(children);
  const clamp = lines ? { style: { WebkitLineClamp: lines }, title: shorten(text, 2000) } : {};
  return h("bdi", { className: `wv-text ${lines ? "wv-clamp" : ""} ${className}`, ...clamp }, text);
}

/** Long text that opens on a click. */
export function LongText({ children, length = 280 }) {
  const [open, setOpen] = useState(false);
  const text = String(children ?? "");
  if (text.length <= length) return h(Text, null, text);
  return h(
    "span",
    null,
    h(Text, null, open ? text : shorten(text, length)),
    " ",
    h(
      "button",
      { type: "button", className: "wv-link", "aria-expanded": open, onClick: () => setOpen(!open) },
      open ? "Show less" : "Show all",
    ),
  );
}

export function Badge({ tone = "off", icon, title, children, solid = false }) {
  return h("span", { className: `wv-badge wv-${tone} ${solid ? "wv-solid" : ""}`, title }, icon ? h(Icon, { name: icon }) : null, children);
}

export function StateBadge({ state }) {
  const word = wordOf(STATES, state);
  return h(Badge, { ...word, solid: word.tone === "bad" || word.tone === "warn" || word.tone === "busy" }, word.label);
}

export function DecisionBadge({ decision }) {
  const word = wordOf(DECISIONS, decision);
  return h("span", { className: `wv-badge wv-${word.tone}`, title: word.means }, h(Sign, { shape: word.shape }), word.label);
}

/** A badge of a table of words. */
export function WordBadge({ words, word, title }) {
  const found = wordOf(words, word);
  return h(Badge, { tone: found.tone, icon: found.icon, title: title ?? found.means }, found.label);
}

/** The metric with the mark of its kind. */
export function Metric({ metric }) {
  if (!metric) return NOTHING;
  const kind = wordOf(KINDS, metric.kind);
  return h(
    "span",
    { className: "wv-metric" },
    h("strong", null, formatValue(metric.value)),
    h("span", { className: "wv-kind", title: kind.means }, h(Sign, { shape: kind.shape }), kind.label),
  );
}

export function Owner({ name }) {
  if (!name) return null;
  return h("span", { className: "wv-owner", title: `Owner: ${shorten(name, 300)}` }, h(Icon, { name: "person" }), h("bdi", null, name));
}

export function Tags({ tags }) {
  return (tags ?? []).map((tag) => h("bdi", { key: tag, className: "wv-tag", title: shorten(tag, 300) }, tag));
}

/** A button; one that may not be pressed says why, and can still be reached. */
export function Button({ children, onClick, icon, primary = false, danger = false, small = false, forbidden = null, ...rest }) {
  const look = ["wv-button", primary && "wv-primary", danger && "wv-danger", small && "wv-small"].filter(Boolean).join(" ");
  const off = forbidden ? { "aria-disabled": true, title: forbidden } : {};
  return h(
    "button",
    { type: "button", className: look, onClick: forbidden ? (event) => event.preventDefault() : onClick, ...off, ...rest },
    icon ? h(Icon, { name: icon }) : null,
    children,
  );
}

/** A link to a page of Airflow, within the app. */
export function RunLink({ run, children }) {
  if (!run) return NOTHING;
  return h(Link, { className: "wv-link", to: runPath(run), title: `${run.dag_id} ${run.run_id}` }, children ?? h("bdi", null, run.run_id));
}

/** Airflow's page of a run. */
export function runPath({ dag_id, run_id }) {
  return `/dags/${encodeURIComponent(dag_id)}/runs/${encodeURIComponent(run_id)}`;
}

/** Airflow's page on which a waiting task is answered. */
export function approvalPath({ task_id, map_index, ...run }) {
  const mapped = map_index >= 0 ? `/mapped/${map_index}` : "";
  return `${runPath(run)}/tasks/${encodeURIComponent(task_id)}${mapped}/required_actions`;
}

/** A link out of the app, in a new tab; nothing for an address that is no ordinary one. */
export function OutLink({ href, children, title }) {
  const url = safeUrl(href);
  if (!url) return NOTHING;
  return h(
    "a",
    { className: "wv-link wv-out", href: url, target: "_blank", rel: "noopener noreferrer", title },
    children,
    h(Icon, { name: "external" }),
  );
}

export function Panel({ title, note, actions, children, className = "" }) {
  const id = useId();
  return h(
    "section",
    { className: `wv-panel ${className}`, "aria-labelledby": id },
    h("header", { className: "wv-panel-head" }, h("h3", { id }, title), note ? h("p", { className: "wv-muted" }, note) : null, actions),
    children,
  );
}

export function Facts({ facts }) {
  return h(
    "dl",
    { className: "wv-facts" },
    facts.filter(Boolean).map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value ?? NOTHING))),
  );
}

export function Banner({ tone = "info", icon = "info", title, children, actions }) {
  return h(
    "div",
    { className: `wv-banner wv-${tone}`, role: tone === "bad" ? "alert" : "note" },
    h(Icon, { name: icon }),
    h("div", { className: "wv-banner-text" }, title ? h("strong", null, title) : null, children),
    actions ? h("div", { className: "wv-banner-actions" }, actions) : null,
  );
}

/** Nothing is here yet: what a person can do about it. */
export function Empty({ title, children, actions }) {
  return h("div", { className: "wv-empty" }, h("p", { className: "wv-empty-title" }, title), h("div", null, children), actions);
}

export function Skeleton({ lines = 5 }) {
  const bars = Array.from({ length: lines }, (_, n) => h("div", { key: n, className: "wv-bone" }));
  return h("div", { className: "wv-skeleton", role: "status", "aria-label": "Loading" }, bars);
}

export function Failure({ error, retry }) {
  if (error.status === 401) {
    const login = h("a", { className: "wv-button wv-primary", href: loginUrl() }, "Log in");
    return h(Banner, { tone: "bad", icon: "warn", title: "You are logged out", actions: login }, "Log in again to see the models.");
  }
  return h(
    Banner,
    { tone: "bad", icon: "warn", title: "This could not be loaded", actions: h(Button, { icon: "refresh", onClick: retry }, "Retry") },
    h(Text, null, error.message),
  );
}

/** When the page was read last, and whether reading again failed. */
export function Freshness({ at, error, reload }) {
  const now = useNow();
  const age = formatRelative(new Date(at).toISOString(), Math.max(now, at));
  return h(
    "span",
    { className: `wv-fresh ${error ? "wv-stale" : ""}`, role: "status" },
    error ? h(Icon, { name: "warn" }) : h("span", { className: "wv-dot", "aria-hidden": true }),
    error ? `Not refreshed: ${error.message} Shown is what was read ${age}.` : h("span", { title: "Read again every ten seconds" }, "Live"),
    h(
      "button",
      { type: "button", className: "wv-icon-button", onClick: reload, title: "Read again now", "aria-label": "Read again now" },
      h(Icon, { name: "refresh" }),
    ),
  );
}

/**
 * A table in its own box. `columns`: {label, cell(row), numeric, wide, hint}; long ones start with their first rows.
 */
export function Table({ label, columns, rows, keyOf = (row, index) => index, first = FIRST_ROWS, rowClass }) {
  const [all, setAll] = useState(false);
  const shown = all ? rows : rows.slice(0, first);
  const kind = (
    column,
  ) => [column.numeric && "wv-number", column.wide && "wv-wide", column.nowrap && "wv-nowrap"].filter(Boolean).join(" ") || undefined;
  return h(
    "div",
    null,
    h(
      "div",
      { className: "wv-scroll", role: "region", "aria-label": label, tabIndex: 0 },
      h(
        "table",
        { className: "wv-table" },
        h("caption", { className: "wv-hidden" }, label),
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            columns.map(
              (column) => h("th", { key: column.label, scope: "col", className: kind(column), title: column.hint }, column.label),
            ),
          ),
        ),
        h(
          "tbody",
          null,
          shown.map((row, index) =>
            h(
              "tr",
              { key: keyOf(row, index), className: rowClass?.(row) },
              columns.map((column) => h("td", { key: column.label, className: kind(column) }, column.cell(row, index) ?? NOTHING)),
            ),
          ),
        ),
      ),
    ),
    rows.length > shown.length ? h(Button, { small: true, onClick: () => setAll(true) }, `Show all ${rows.length} rows`) : null,
  );
}
