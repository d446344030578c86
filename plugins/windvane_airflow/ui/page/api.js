// Everything that the page asks of a server: Windvane's own JSON, and Airflow's REST API for what is a DAG run.

import { useEffect, useRef, useState } from "./host.js";

// this file lies in <base>/windvane/page.<digest>/, wherever Airflow's base path is
const API = new URL("../api/", import.meta.url);
const AIRFLOW = new URL("../../", import.meta.url);
const TIMEOUT_MILLISECONDS = 30_000;

class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Addresses in data are followed only as far as they are ordinary ones. */
export function safeUrl(address) {
  if (typeof address !== "string" || address === "") return null;
  try {
    // what the plugin serves is told without Airflow's base path
    const url = address.startsWith("/windvane/") ? new URL(address.slice(1), AIRFLOW) : new URL(address, AIRFLOW);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

export function loginUrl() {
  const url = new URL("api/v2/auth/login", AIRFLOW);
  url.searchParams.set("next", location.pathname + location.search);
  return url.href;
}

export function modelPath(model, ...rest) {
  return ["models", model, ...rest].map(encodeURIComponent).join("/");
}

export function read(path, signal) {
  return call(new URL(path, API), { signal });
}

/** Freeze or unfreeze: a row of the release ledger. */
export function write(path, body) {
  return call(new URL(path, API), { method: "POST", body });
}

/** Start a DAG through Airflow's own API, so that Airflow checks the permission and keeps the user's name. */
export function trigger(dag, conf) {
  const url = new URL(`api/v2/dags/${encodeURIComponent(dag)}/dagRuns`, AIRFLOW);
  return call(url, { method: "POST", body: { logical_date: null, conf } });
}

async function call(url, { method = "GET", body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const timeout = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
  let response;
  let text;
  try {
    response = await fetch(url, {
      method,
      headers,
      credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(error.name === "TimeoutError" ? "The server did not answer within 30 seconds." : "The server cannot be reached.", 0);
  }
  if (!response.ok) throw new ApiError(describe(text, response), response.status);
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(
      `The answer of ${url.pathname} is not JSON; something between the browser and Airflow may have replaced it.`,
      response.status,
    );
  }
}

function describe(text, response) {
  let detail;
  try {
    detail = JSON.parse(text).detail;
  } catch {
    // a proxy's page, for instance: the status says enough
  }
  if (typeof detail === "string" && detail) return detail;
  if (Array.isArray(detail)) return detail.map((each) => [each.loc?.join("."), each.msg].filter(Boolean).join(": ")).join("; ");
  if (detail && typeof detail === "object") return detail.message ?? detail.reason ?? JSON.stringify(detail);
  return `HTTP ${response.status} ${response.statusText}`.trim();
}

// what was read last is shown at once when a person comes back, and then read again
const kept = new Map();
const MOST_KEPT = 20;

let early = null;

/** Ask for an address before there is anything to show it in; the first that reads it gets this answer. */
export function readEarly(path) {
  early = { path, answer: read(path) };
  // whoever reads it is told of an error
  early.answer.catch(() => {});
}

function takeEarly(path) {
  if (early?.path !== path) return null;
  const { answer } = early;
  early = null;
  return answer;
}

/** What was read last of this address, if anything. */
export function lastRead(path) {
  return kept.get(path)?.data ?? null;
}

/**
 * Read an address, and again every `every(data)` seconds while the page can be seen.
 * `merge(fresh, old)` may keep objects that did not change, so that nothing is drawn anew.
 */
export function useResource(path, every, merge = (fresh) => fresh) {
  const [state, setState] = useState(() => kept.get(path) ?? { data: null, error: null, at: 0 });
  const reload = useRef(() => {});

  useEffect(() => {
    let timer = null;
    let controller = null;
    let ended = false;
    let due = 0;
    let current = kept.get(path) ?? null;

    async function load() {
      clearTimeout(timer);
      controller?.abort();
      const mine = (controller = new AbortController());
      try {
        const fresh = await (takeEarly(path) ?? read(path, mine.signal));
        if (ended || mine.signal.aborted) return;
        current = { data: merge(fresh, current?.data ?? null), error: null, at: Date.now() };
        keep(path, current);
        setState(current);
      } catch (error) {
        if (ended || mine.signal.aborted) return;
        setState((old) => ({ ...old, error }));
      }
      const wait = every(current?.data ?? null) * 1000;
      due = Date.now() + wait;
      timer = setTimeout(look, wait);
    }
    // a page that nobody sees asks for nothing
    function look() {
      if (!document.hidden && Date.now() >= due - 50) load();
    }

    reload.current = load;
    document.addEventListener("visibilitychange", look);
    load();
    return () => {
      ended = true;
      clearTimeout(timer);
      controller?.abort();
      document.removeEventListener("visibilitychange", look);
    };
  }, [path]);

  return { ...state, reload: () => reload.current() };
}

function keep(path, state) {
  kept.delete(path);
  kept.set(path, state);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
}
