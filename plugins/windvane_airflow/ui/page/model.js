// The page of one model: what it is, what a person can do, and its sections.

import { ActionDialog } from "./actions.js";
import { ActionButtons } from "./action_buttons.js";
import { Banners } from "./banners.js";
import { Button, Failure, Freshness, Owner, Skeleton, StateBadge, Tags, Text } from "./elements.js";
import { ChallengerSection } from "./challenger.js";
import { DataSection } from "./data.js";
import { h, Link, useEffect, useRef, useSearchParams, useState } from "./host.js";
import { Header } from "./header.js";
import { Icon } from "./shapes.js";
import { useZone } from "./format.js";
import { lastRead, modelPath, useResource } from "./api.js";
import { NowSection } from "./now.js";
import { PerformanceSection } from "./performance.js";
import { ReleasesSection } from "./releases.js";
import { RunsSection } from "./runs.js";
import { VersionsSection } from "./versions.js";
import { WindowDialog } from "./window_dialog.js";

const EVERY_SECONDS = 10;
const ROLLOUT_SECONDS = 2;

const TABS = [
  ["now", "Now", NowSection],
  ["performance", "Performance", PerformanceSection],
  ["releases", "Releases", ReleasesSection],
  ["versions", "Versions", VersionsSection],
  ["challenger", "Challenger", ChallengerSection],
  ["data", "Data", DataSection],
  ["runs", "Runs", RunsSection],
];

export function ModelPage({ model }) {
  const { data, error, at, reload } = useResource(modelPath(model), (read) => (read?.rollout ? ROLLOUT_SECONDS : EVERY_SECONDS), keepSame);
  // until the whole model is here, what the overview knows of it is shown
  const row = data ?? lastRead("models")?.models.find((each) => each.model === model) ?? null;
  const [params] = useSearchParams();
  const tab = TABS.some(([name]) => name === params.get("tab")) ? params.get("tab") : "now";
  const [action, setAction] = useState(null);
  const [done, setDone] = useState(null);
  const windowKey = useWindowKey();
  const zone = useZone();

  const act = (name, args = {}) => setAction({ name, args });
  const finish = (result) => {
    setAction(null);
    setDone(result);
    windowKey.close();
    reload();
  };
  const Section = TABS.find(([name]) => name === tab)[2];
  return h(
    "div",
    { className: "wv-model" },
    h(Crumbs, { model, fresh: data ? h(Freshness, { at, error, reload }) : null }),
    h(Title, { model, row, act: data ? act : null }),
    done ? h(Done, { done, close: () => setDone(null) }) : null,
    !data && error ? h(Failure, { error: error.status === 404 ? unknown(model, error) : error, retry: reload }) : null,
    row ? h(Header, { model: row }) : null,
    data ? h(Banners, { model: data, act }) : null,
    data || !error ? h(Tabs, { model, tab }) : null,
    data
      ? h("div", { className: "wv-section", key: `${tab} ${zone}` }, h(Section, { model: data, act, openWindow: windowKey.open }))
      : error
        ? null
        : h(Skeleton, { lines: 6 }),
    data && windowKey.key
      ? h(WindowDialog, { key: windowKey.key, model: data, windowKey: windowKey.key, close: windowKey.close, act })
      : null,
    data && action ? h(ActionDialog, { ...action, model: data, close: () => setAction(null), done: finish }) : null,
  );
}

// parts that did not change stay the same objects, so that no chart is drawn again
function keepSame(fresh, old) {
  if (!old) return fresh;
  const kept = { ...fresh };
  for (const name of Object.keys(fresh)) {
    if (typeof fresh[name] === "object" && JSON.stringify(fresh[name]) === JSON.stringify(old[name])) kept[name] = old[name];
  }
  return kept;
}

function unknown(model, error) {
  return Object.assign(new Error(error.message || `There is no model ${model} that you may read.`), { status: 404 });
}

// the window that is looked at is in the address too
function useWindowKey() {
  const [params, setParams] = useSearchParams();
  const change = (key) => {
    const next = new URLSearchParams(params);
    if (key) next.set("window", key);
    else next.delete("window");
    setParams(next, { replace: true });
  };
  const latest = useRef(change);
  latest.current = change;
  const [handlers] = useState(() => ({ open: (key) => latest.current(key), close: () => latest.current(null) }));
  return { key: params.get("window"), ...handlers };
}

function Crumbs({ model, fresh }) {
  return h(
    "nav",
    { className: "wv-crumbs", "aria-label": "Where you are" },
    h(Link, { className: "wv-link", to: "/plugin/models" }, "Models"),
    h(Icon, { name: "chevron" }),
    h(Text, { lines: 1 }, model),
    h("span", { className: "wv-grow" }),
    fresh,
  );
}

function Title({ model, row, act }) {
  return h(
    "header",
    { className: "wv-title" },
    h(
      "div",
      { className: "wv-title-text" },
      h("div", { className: "wv-line" }, h("h2", null, h("bdi", null, model)), row ? h(StateBadge, { state: row.state }) : null),
      row?.description ? h(Text, { lines: 2, className: "wv-muted" }, row.description) : null,
      row ? h("div", { className: "wv-line" }, h(Owner, { name: row.owner }), h(Tags, { tags: row.tags })) : null,
    ),
    row && act ? h(ActionButtons, { model: row, act }) : null,
  );
}

function Done({ done, close }) {
  const box = useRef(null);
  useEffect(() => box.current?.focus(), [done]);
  return h(
    "div",
    { className: "wv-banner wv-good", role: "status", tabIndex: -1, ref: box },
    h(Icon, { name: "check" }),
    h(
      "div",
      { className: "wv-banner-text" },
      h("span", null, done.text, " ", done.link ? h(Link, { className: "wv-link", to: done.link.to }, done.link.text) : null),
    ),
    h(Button, { small: true, onClick: close, "aria-label": "Dismiss" }, h(Icon, { name: "close" })),
  );
}

function Tabs({ model, tab }) {
  const base = `/plugin/models/${encodeURIComponent(model)}`;
  const box = useRef(null);
  // in a narrow window the chosen one may be out of sight
  useEffect(() => {
    const chosen = box.current.querySelector('[aria-current="page"]');
    box.current.scrollLeft = chosen.offsetLeft - (box.current.clientWidth - chosen.clientWidth) / 2;
  }, [tab]);
  return h(
    "nav",
    { className: "wv-tabs", "aria-label": "Sections", ref: box },
    TABS.map(([name, label]) =>
      h(
        Link,
        {
          key: name,
          to: name === "now" ? base : `${base}?tab=${name}`,
          replace: true,
          preventScrollReset: true,
          "aria-current": name === tab ? "page" : undefined,
        },
        label,
      ),
    ),
  );
}
