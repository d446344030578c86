// What came in, what was kept back and why, and which windows wait for a person.

import { Badge, Button, Empty, LongText, OutLink, Panel, RunLink, Span, Table, Time } from "./elements.js";
import { Chart } from "./chart.js";
import { forbiddenWhy } from "./action_buttons.js";
import { formatCount, formatPercent, formatWindow } from "./format.js";
import { h, Link, memo, useMemo } from "./host.js";

export function DataSection({ model, act, openWindow }) {
  const { batches = [], windows = [] } = model;
  const held = windows.filter((each) => each.held);
  const dag = `${model.model}__ingest`;
  if (batches.length === 0 && held.length === 0) {
    return h(
      Empty,
      {
        title: "No data came in yet",
        actions: h(Link, { className: "wv-button wv-primary", to: `/dags/${encodeURIComponent(dag)}` }, `Open ${dag}`),
      },
      "Run ",
      h("code", null, dag),
      ": it reads a window of rows, validates it and commits what is good.",
    );
  }
  return h(
    "div",
    { className: "wv-stack" },
    held.length ? h(Held, { held, model, act, openWindow }) : null,
    h(RowsChart, { batches }),
    h(Batches, { batches }),
  );
}

function Held({ held, model, act, openWindow }) {
  const forbidden = forbiddenWhy(model, "release");
  const columns = [
    { label: "Window", nowrap: true, cell: (w) => h(Span, w) },
    { label: "Reason", wide: true, cell: (w) => h(LongText, null, w.reason) },
    { label: "Decided", nowrap: true, cell: (w) => h(Time, { at: w.decided_at, relative: true }) },
    {
      label: "Actions",
      nowrap: true,
      cell: (w) =>
        h(
          "div",
          { className: "wv-line" },
          h(Button, { small: true, forbidden, onClick: () => act("release", { window: w }), "aria-haspopup": "dialog" }, "Release…"),
          h(Button, { small: true, onClick: () => openWindow(w.key) }, "Evidence"),
        ),
    },
  ];
  return h(
    Panel,
    {
      title: "Windows held back",
      note: "Their data is bad, so nothing is trained on it. Mend it at its source and ingest it again, or release it if it is good.",
    },
    h(Table, { label: "Windows held back", columns, rows: [...held].reverse(), keyOf: (w) => w.key }),
  );
}

const RowsChart = memo(function RowsChart({ batches }) {
  const plot = useMemo(() => {
    const at = (batch) => Date.parse(batch.end);
    const refused = batches.filter((each) => each.refused);
    return {
      series: [
        { name: "rows", kind: "bar", tone: "first", points: batches.map((b) => ({ x: at(b), y: b.rows })) },
        {
          name: "quarantined rows",
          kind: "bar",
          tone: "second",
          hatched: true,
          points: batches.some(({ quarantined }) => quarantined) ? batches.map((b) => ({ x: at(b), y: b.quarantined, from: b.rows })) : [],
        },
      ],
      marks: refused.map((b) => ({ x: at(b), shape: "cross", tone: "bad" })),
      stops: batches.map((b) => ({
        x: at(b),
        title: formatWindow(b.start, b.end),
        lines: [
          ["rows", formatCount(b.rows)],
          [
            "quarantined",
            `${formatCount(b.quarantined)}${b.rows + b.quarantined ? `, ${formatPercent(b.quarantined / (b.rows + b.quarantined))}` : ""}`,
          ],
          ...(b.refused ? [["batch", "refused"]] : []),
        ],
      })),
    };
  }, [batches]);
  return h(Chart, {
    title: "Rows and quarantine over time",
    note: "Rows that were committed, and on top of them those that were set aside as invalid.",
    xLabel: "Data time",
    yLabel: "Rows",
    legend: batches.some(({ refused }) => refused) ? [{ name: "refused batch", shape: "cross", tone: "bad" }] : [],
    empty: "No batch came in yet.",
    table: { columns: COLUMNS, rows: [...batches].reverse() },
    ...plot,
  });
});

const COLUMNS = [
  { label: "Window", nowrap: true, cell: (b) => h(Span, b) },
  { label: "Rows", numeric: true, cell: (b) => formatCount(b.rows) },
  { label: "Quarantined", numeric: true, cell: (b) => formatCount(b.quarantined) },
  { label: "Batch", cell: (b) => h(Outcome, { batch: b }) },
];

function Outcome({ batch }) {
  if (batch.refused) return h(Badge, { tone: "bad", icon: "cross" }, "Refused");
  if (batch.quarantined) return h(Badge, { tone: "warn", icon: "warn" }, "Partly");
  return h(Badge, { tone: "good", icon: "check" }, "Good");
}

const Batches = memo(function Batches({ batches }) {
  const columns = [
    ...COLUMNS,
    { label: "Reasons", wide: true, cell: (b) => (b.reasons?.length ? h(LongText, null, b.reasons.join("; ")) : null) },
    { label: "Validated", nowrap: true, cell: (b) => h(Time, { at: b.at, relative: true }) },
    {
      label: "Links",
      nowrap: true,
      cell: (b) => h(
        "div",
        { className: "wv-line" },
        b.report_url ? h(OutLink, { href: b.report_url }, "Validation") : null,
        b.run ? h(RunLink, { run: b.run }, "Run") : null,
      ),
    },
  ];
  return h(
    Panel,
    { title: "Batches", note: "Newest first." },
    h(Table, { label: "Batches", columns, rows: [...batches].reverse(), keyOf: (b) => b.key }),
  );
});
