// The newest runs of the model's DAGs.

import { Empty, Panel, RunLink, Table, Text, Time, WordBadge } from "./elements.js";
import { formatSeconds } from "./format.js";
import { h, Link, useState } from "./host.js";
import { kindOf, RUNS } from "./words.js";

export function RunsSection({ model }) {
  const { runs = [] } = model;
  const [kind, setKind] = useState("");
  const kinds = [...new Set(runs.map(({ dag_id }) => kindOf(dag_id)))].sort();
  if (runs.length === 0) return h(Empty, { title: "Nothing ran yet" }, "Runs of the model's DAGs appear here.");
  const shown = kind ? runs.filter(({ dag_id }) => kindOf(dag_id) === kind) : runs;
  const columns = [
    { label: "Run", wide: true, cell: (run) => h(RunLink, { run }) },
    {
      label: "DAG",
      cell: (run) => h(Link, { className: "wv-link", to: `/dags/${encodeURIComponent(run.dag_id)}` }, h("bdi", null, run.dag_id)),
    },
    { label: "State", cell: (run) => h(WordBadge, { words: RUNS, word: run.state ?? "none" }) },
    { label: "Started", nowrap: true, cell: (run) => h(Time, { at: run.start }) },
    {
      label: "Took",
      numeric: true,
      nowrap: true,
      cell: (run) => (run.start && run.end ? formatSeconds((Date.parse(run.end) - Date.parse(run.start)) / 1000) : null),
    },
    { label: "Type", cell: (run) => h(Text, null, run.run_type) },
    { label: "By", cell: (run) => (run.user ? h(Text, null, run.user) : null) },
  ];
  return h(
    Panel,
    {
      title: "Runs",
      note: "The newest 50.",
      actions: h(
        "label",
        { className: "wv-choice" },
        h("span", { className: "wv-hidden" }, "DAG"),
        h(
          "select",
          { value: kind, onChange: (event) => setKind(event.target.value) },
          h("option", { value: "" }, "All DAGs"),
          kinds.map((name) => h("option", { key: name, value: name }, name)),
        ),
      ),
    },
    h(Table, { label: "Runs", columns, rows: shown, keyOf: (run) => `${run.dag_id} ${run.run_id}` }),
  );
}
