// The entry of the Models page: Airflow imports this file once and renders `globalThis.Models`.
//
// Its address holds a digest of all files (`windvane/page.<digest>/`), which relative imports keep: a browser may cache
// them for good, and never mixes the modules of two releases.

// named here so that the browser fetches them at once, not one level of imports after the other
import "./choose_models.js";
import "./format.js";
import "./model_row.js";
import "./shapes.js";
import "./sparkline.js";
import "./words.js";
import { readEarly } from "./api.js";
import { Overview } from "./overview.js";
import { h, lazy, Suspense, useEffect, useLocation, useNavigate, useState } from "./host.js";
import { Skeleton } from "./elements.js";

const ModelPage = lazy(() => import("./model.js").then((module) => ({ default: module.ModelPage })));

addStyles();
// Airflow takes a while until it draws this page; the models are on their way by then
if (readModel(location.pathname) === null) readEarly("models");

globalThis.Models = function Models() {
  const { pathname } = useLocation();
  const model = readModel(pathname);
  useTitle(model ?? "Models");
  if (!useSettled()) return null;
  return h(
    "div",
    // English, whatever direction Airflow's own language has; data is isolated with <bdi>
    { className: "wv", lang: "en", dir: "ltr" },
    model === null ? h(Overview) : h(Suspense, { fallback: h(Skeleton, { lines: 8 }) }, h(ModelPage, { key: model, model })),
  );
};

// Airflow draws an app that it just imported through `lazy`, and by itself from the next navigation on: to React these are two
// components, so the first click or key would lose what was typed. A navigation to the same place gets this over with.
let settled = false;

function useSettled() {
  const navigate = useNavigate();
  const { pathname, search, hash, state } = useLocation();
  const [ready, setReady] = useState(settled);
  useEffect(() => {
    if (settled) return undefined;
    settled = true;
    navigate({ pathname, search, hash }, { replace: true, preventScrollReset: true, state });
    // the second component is ready from its start; this one draws only if a later Airflow makes no second one
    const timer = setTimeout(() => setReady(true), 200);
    return () => clearTimeout(timer);
  }, []);
  return ready;
}

function readModel(pathname) {
  const rest = pathname.split("/plugin/models/")[1]?.replace(/\/+$/, "");
  if (!rest) return null;
  try {
    return decodeURIComponent(rest);
  } catch {
    return rest;
  }
}

function useTitle(title) {
  useEffect(() => {
    const instance = document.title.split(" - ").at(-1);
    document.title = `${title} - ${instance}`;
    return () => {
      document.title = instance;
    };
  }, [title]);
}

function addStyles() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./models.css", import.meta.url).href;
  document.head.append(link);
}
