// Which columns moved when: columns by windows, worst columns first.

import { Button, Panel, Table, Text, LongText } from "./elements.js";
import { formatCount, formatWindow, plural, shorten } from "./format.js";
import { h, memo, useMemo, useState } from "./host.js";
import { Span } from "./elements.js";

const MOST_COLUMNS = 25;
const MOST_WINDOWS = 60;

export const ColumnGrid = memo(function ColumnGrid({ windows, openWindow }) {
  const [asTable, setAsTable] = useState(false);
  const shown = useMemo(() => windows.filter(({ compared }) => compared > 0).slice(-MOST_WINDOWS), [windows]);
  const columns = useMemo(() => countColumns(shown), [shown]);
  if (columns.length === 0) {
    return h(
      Panel,
      { title: "Which columns moved" },
      h("p", { className: "wv-nothing" }, `No column drifted in ${plural(shown.length, "window")}.`),
    );
  }
  const hidden = columns.length - MOST_COLUMNS;
  const last = shown.length === 1 ? "last window" : `last ${plural(shown.length, "window")}`;
  const note = `The ${last}, oldest first.${hidden > 0 ? ` ${plural(hidden, "column")} more drifted less often.` : ""}`;
  const toggle = h(
    Button,
    { small: true, "aria-pressed": asTable, onClick: () => setAsTable(!asTable) },
    asTable ? "Show as chart" : "Show as table",
  );
  return h(
    Panel,
    { title: "Which columns moved", note, actions: toggle },
    asTable ? h(Table, { label: "Which columns moved", columns: MOVES, rows: listMoves(shown) }) : h(
      Grid,
      { windows: shown, columns: columns.slice(0, MOST_COLUMNS), openWindow },
    ),
  );
});

function countColumns(windows) {
  const counts = new Map();
  for (const { drifted } of windows) {
    for (const column of drifted) counts.set(column, (counts.get(column) ?? 0) + 1);
  }
  return [...counts].sort(([a, x], [b, y]) => y - x || a.localeCompare(b));
}

const MOVES = [
  { label: "Window", nowrap: true, cell: ({ window }) => h(Span, window) },
  { label: "Column", cell: ({ column }) => h(LongText, { length: 80 }, column) },
  { label: "How it moved", wide: true, cell: ({ how }) => h(LongText, null, how) },
];

function listMoves(windows) {
  return [...windows].reverse().flatMap(
    (window) => window.drifted.map((column, index) => ({ window, column, how: howMoved(window, column, index) })),
  );
}

function howMoved({ moved = [], drifted = [] }, column, index) {
  return moved.find((text) => text.startsWith(column)) ?? (moved.length === drifted.length ? moved[index] : "");
}

function Grid({ windows, columns, openWindow }) {
  // one button per window; its cells are told by the table behind the grid
  return h(
    "div",
    { className: "wv-scroll", tabIndex: 0, role: "region", "aria-label": "Which columns moved, by window" },
    h(
      "table",
      { className: "wv-matrix" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("th", { scope: "col" }, h("span", { className: "wv-hidden" }, "Column")),
          windows.map((window) =>
            h(
              "th",
              { key: window.key, scope: "col" },
              h("button", {
                type: "button",
                title: `${formatWindow(window.start, window.end)}: ${plural(window.drifted.length, "column")} drifted`,
                "aria-label": `${formatWindow(window.start, window.end)}, evidence`,
                onClick: () => openWindow(window.key),
              }),
            ),
          ),
          h("th", { scope: "col", className: "wv-number" }, "Windows"),
        ),
      ),
      h(
        "tbody",
        null,
        columns.map(([column, count]) =>
          h(
            "tr",
            { key: column },
            h("th", { scope: "row" }, h(Text, { lines: 1 }, column)),
            windows.map((window) => {
              const index = window.drifted.indexOf(column);
              if (index < 0) return h("td", { key: window.key });
              const how = howMoved(window, column, index) || `${column} drifted`;
              return h(
                "td",
                { key: window.key, className: "wv-moved", title: `${formatWindow(window.start, window.end)}\n${shorten(how, 400)}` },
                h("span", { className: "wv-hidden" }, "drifted"),
              );
            }),
            h("td", { className: "wv-number" }, formatCount(count)),
          ),
        ),
      ),
    ),
    h(
      "p",
      { className: "wv-muted wv-grid-ends" },
      h("span", null, formatWindow(windows[0].start, windows[0].end)),
      h("span", null, formatWindow(windows.at(-1).start, windows.at(-1).end)),
    ),
  );
}
