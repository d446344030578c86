// All models: who needs a person first, and how everything is doing.

import { Button, Empty, Failure, Freshness, Skeleton } from "./elements.js";
import { countStates, filterModels, keepUnchanged, listOwners, listTags, sortModels } from "./choose_models.js";
import { formatCount, plural } from "./format.js";
import { h, useEffect, useMemo, useRef, useSearchParams, useState } from "./host.js";
import { Icon } from "./shapes.js";
import { ModelRow } from "./model_row.js";
import { STATES, wordOf } from "./words.js";
import { useResource } from "./api.js";

const EVERY_SECONDS = 10;
const ROWS_AT_ONCE = 30;

const HEADINGS = [
  ["model", "Model"],
  ["state", "State"],
  ["since", "Serves"],
  ["metric", "Metric now"],
  ["decision", "Last decision"],
  ["next", "Next run"],
];

export function Overview() {
  const { data, error, at, reload } = useResource("models", () => EVERY_SECONDS, keepUnchanged);
  const models = data?.models;
  const [filter, setFilter] = useFilter();

  return h(
    "div",
    null,
    h(
      "header",
      { className: "wv-page-head" },
      h("h2", null, "Models"),
      models ? h(Freshness, { at, error, reload }) : null,
    ),
    !models && error ? h(Failure, { error, retry: reload }) : null,
    !models && !error ? h(Skeleton, { lines: 10 }) : null,
    models?.length === 0 ? h(NoModels) : null,
    models?.length ? h(Filters, { models, filter, setFilter }) : null,
    models?.length ? h(ModelTable, { models, filter, setFilter }) : null,
  );
}

// the filter lives in the address, so that it can be shared; typing replaces the entry instead of adding one per key
function useFilter() {
  const [params, setParams] = useSearchParams();
  const [search, setSearch] = useState(params.get("search") ?? "");
  const latest = useRef(params);
  latest.current = params;

  const write = (changes) => {
    const next = new URLSearchParams(latest.current);
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    setParams(next, { replace: true });
  };
  // a keystroke filters at once; the router, which redraws more than this page, hears of it after the last one
  useEffect(() => {
    if (search === (latest.current.get("search") ?? "")) return undefined;
    const timer = setTimeout(() => write({ search }), 300);
    return () => clearTimeout(timer);
  }, [search]);
  const [owner, tag, state, sort] = ["owner", "tag", "state", "sort"].map((name) => params.get(name) ?? "");
  const filter = useMemo(() => ({ search, owner, tag, state, sort }), [search, owner, tag, state, sort]);

  return [
    filter,
    (changes) => {
      const { search: typed, ...rest } = changes;
      if (typed !== undefined) setSearch(typed);
      if (Object.keys(rest).length > 0) write(typed === undefined ? rest : changes);
    },
  ];
}

function Filters({ models, filter, setFilter }) {
  const states = useMemo(() => countStates(models), [models]);
  const owners = useMemo(() => listOwners(models), [models]);
  const tags = useMemo(() => listTags(models), [models]);
  const active = filter.search || filter.owner || filter.tag || filter.state;
  return h(
    "div",
    { className: "wv-filters", role: "search" },
    h(
      "div",
      { className: "wv-filter-row" },
      h(SearchBox, { value: filter.search, onChange: (search) => setFilter({ search }) }),
      h(Choice, { label: "Owner", all: "All owners", value: filter.owner, options: owners, onChange: (owner) => setFilter({ owner }) }),
      h(Choice, { label: "Tag", all: "All tags", value: filter.tag, options: tags, onChange: (tag) => setFilter({ tag }) }),
    ),
    h(
      "div",
      { className: "wv-filter-row" },
      h(
        "div",
        { className: "wv-chips", role: "group", "aria-label": "Filter by state" },
        h(Chip, { label: "All", count: models.length, chosen: !filter.state, onClick: () => setFilter({ state: "" }) }),
        states.map(([state, count]) =>
          h(Chip, {
            key: state,
            ...wordOf(STATES, state),
            count,
            chosen: filter.state === state,
            onClick: () => setFilter({ state: filter.state === state ? "" : state }),
          }),
        ),
      ),
      active
        ? h(Button, { small: true, icon: "close", onClick: () => setFilter({ search: "", owner: "", tag: "", state: "" }) }, "Clear")
        : null,
    ),
  );
}

function SearchBox({ value, onChange }) {
  const box = useRef(null);
  useEffect(() => {
    const focus = (event) => {
      const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      box.current?.focus();
    };
    document.addEventListener("keydown", focus);
    return () => document.removeEventListener("keydown", focus);
  }, []);
  return h(
    "label",
    { className: "wv-search" },
    h(Icon, { name: "search" }),
    h("span", { className: "wv-hidden" }, "Search models"),
    h("input", {
      ref: box,
      type: "search",
      value,
      placeholder: "Search by model, owner or tag",
      onChange: (event) => onChange(event.target.value),
      onKeyDown: (event) => {
        if (event.key === "Escape" && value) onChange("");
        else if (event.key === "Escape") event.target.blur();
      },
    }),
    h("kbd", { "aria-hidden": true }, "/"),
  );
}

function Chip({ label, icon, tone = "off", count, chosen, onClick }) {
  return h(
    "button",
    { type: "button", className: `wv-chip wv-${tone}`, "aria-pressed": chosen, onClick },
    icon ? h(Icon, { name: icon }) : null,
    label,
    h("span", { className: "wv-count" }, formatCount(count)),
  );
}

function Choice({ label, all, value, options, onChange }) {
  if (options.length === 0) return null;
  const known = !value || options.includes(value) ? options : [value, ...options];
  return h(
    "label",
    { className: "wv-choice" },
    h("span", { className: "wv-hidden" }, label),
    h(
      "select",
      { value, onChange: (event) => onChange(event.target.value), className: value ? "wv-chosen" : undefined },
      h("option", { value: "" }, all),
      known.map((option) => h("option", { key: option, value: option }, option)),
    ),
  );
}

function ModelTable({ models, filter, setFilter }) {
  const sorted = useMemo(() => sortModels(models, filter.sort), [models, filter.sort]);
  const shown = useMemo(() => new Set(filterModels(models, filter)), [models, filter]);
  const drawn = useDrawn(sorted, shown);
  const sortBy = (key) => setFilter({ sort: filter.sort === key ? `-${key}` : filter.sort === `-${key}` ? "" : key });
  const count = shown.size < models.length ? `${shown.size} of ${plural(models.length, "model")}` : plural(models.length, "model");
  // roles are told because the rows are grids: a table's own display would let the browser lay out all 500 at once
  return h(
    "div",
    { className: "wv-models", role: "table", "aria-label": "Models", "aria-rowcount": shown.size + 1 },
    h("div", { className: "wv-hidden", role: "status" }, count),
    h(
      "div",
      { role: "rowgroup", className: "wv-models-head" },
      h(
        "div",
        { role: "row", className: "wv-model-row wv-heading-row" },
        HEADINGS.map(([key, label]) => h(Heading, { key, label, sort: filter.sort, name: key, onClick: () => sortBy(key) })),
      ),
    ),
    shown.size === 0
      ? h(Empty, {
          title: "No model matches",
          actions: h(Button, { onClick: () => setFilter({ search: "", owner: "", tag: "", state: "" }) }, "Clear the filter"),
        })
      : null,
    h(
      "div",
      { role: "rowgroup" },
      drawn.map((row) => h(ModelRow, { key: row.model, row, hidden: !shown.has(row) })),
    ),
  );
}

/**
 * The rows that are drawn: new ones come in steps, between which the browser paints and hears keys. What was drawn once is only
 * hidden by a filter, because making rows is what costs.
 */
function useDrawn(rows, shown) {
  const known = useRef(new Set());
  const [, drawMore] = useState(0);
  const drawn = [];
  let fresh = 0;
  let missing = 0;
  for (const row of rows) {
    const old = known.current.has(row.model);
    if (old || (shown.has(row) && fresh < ROWS_AT_ONCE)) {
      drawn.push(row);
      if (!old) fresh += 1;
    } else if (shown.has(row)) {
      missing += 1;
    }
  }
  useEffect(() => {
    for (const { model } of drawn) known.current.add(model);
    if (missing === 0) return undefined;
    const timer = setTimeout(() => drawMore((steps) => steps + 1), 40);
    return () => clearTimeout(timer);
  });
  return drawn;
}

function Heading({ name, label, sort, onClick }) {
  const order = sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none";
  const arrow = { ascending: "↑", descending: "↓", none: "" }[order];
  return h(
    "div",
    { role: "columnheader", "aria-sort": order },
    h("button", { type: "button", className: "wv-sort", onClick }, label, h("span", { "aria-hidden": true, className: "wv-arrow" }, arrow)),
  );
}

function NoModels() {
  return h(
    Empty,
    { title: "There are no models yet" },
    "Run ",
    h("code", null, "windvane new-model <name>"),
    " in the project, or write ",
    h("code", null, "dags/configs/<name>.yaml"),
    ". The model appears here with its five DAGs within seconds. If there should be models, ask whether you may read their DAGs.",
  );
}
