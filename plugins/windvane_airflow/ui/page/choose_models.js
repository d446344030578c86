// Which models the overview shows, and in which order: pure functions over the API's rows.

import { STATES } from "./words.js";

/** How many models are in each state, in the order in which a person is needed. */
export function countStates(models) {
  const counts = Object.fromEntries(Object.keys(STATES).map((state) => [state, 0]));
  for (const { state } of models) counts[state] = (counts[state] ?? 0) + 1;
  return Object.entries(counts).filter(([, count]) => count > 0);
}

export function listOwners(models) {
  return sortedSet(models.map(({ owner }) => owner).filter(Boolean));
}

export function listTags(models) {
  return sortedSet(models.flatMap(({ tags }) => tags ?? []));
}

function sortedSet(values) {
  return [...new Set(values)].sort((a, b) => a.localeCompare(b));
}

/** The models that match every word of the search (name, description, owner, tags) and each filter that is set. */
export function filterModels(models, { search, owner, tag, state }) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return models.filter(
    (row) =>
      (!state || row.state === state) &&
      (!owner || row.owner === owner) &&
      (!tag || row.tags?.includes(tag)) &&
      (words.length === 0 || words.every((word) => searchText(row).includes(word))),
  );
}

// kept per row, because rows that did not change stay the same objects
const texts = new WeakMap();

function searchText(row) {
  let text = texts.get(row);
  if (text === undefined) {
    text = [row.model, row.owner, ...(row.tags ?? []), (row.description ?? "").slice(0, 500)].join("\n").toLowerCase();
    texts.set(row, text);
  }
  return text;
}

const STATE_ORDER = Object.keys(STATES);

// what a heading sorts by; the API's own order is by state, then name
const SORTS = {
  model: ({ model }) => model,
  state: ({ state }) => STATE_ORDER.indexOf(state),
  since: ({ since }) => since,
  metric: ({ metric }) => metric?.value,
  decision: ({ decision }) => decision?.decided_at,
  next: ({ next_run }) => next_run?.at,
};

/** Sorted by `key` or `-key`; without one the order stays that of the API. What has no value comes last either way. */
export function sortModels(models, sort) {
  const descending = sort.startsWith("-");
  const valueOf = Object.hasOwn(SORTS, sort.replace(/^-/, "")) ? SORTS[sort.replace(/^-/, "")] : null;
  if (!valueOf) return models;
  const sign = descending ? -1 : 1;
  return [...models].sort((a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    const missing = (x === null || x === undefined) - (y === null || y === undefined);
    if (missing) return missing;
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
}

/** The fresh rows, of which those that did not change are the old objects: they need not be drawn again. */
export function keepUnchanged(fresh, old) {
  if (!old) return fresh;
  const before = new Map(old.models.map((row) => [row.model, row]));
  const models = fresh.models.map((row) => {
    const known = before.get(row.model);
    return known && JSON.stringify(known) === JSON.stringify(row) ? known : row;
  });
  return { ...fresh, models };
}
