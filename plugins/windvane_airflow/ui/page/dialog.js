// A dialog in the page: the browser's own element, which keeps the focus inside and closes with Esc.

import { Button } from "./elements.js";
import { h, useEffect, useId, useRef } from "./host.js";
import { Icon } from "./shapes.js";

export function Dialog({ title, close, children, actions, wide = false, busy = false, leaveLabel = "Cancel" }) {
  const box = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    const element = box.current;
    element.showModal();
    // a browser may close it in spite of `cancel`, at the second Esc in a row
    const closed = () => close();
    element.addEventListener("close", closed);
    return () => {
      element.removeEventListener("close", closed);
      if (element.open) element.close();
      before?.focus?.();
    };
  }, []);
  const leave = () => (busy ? undefined : close());
  return h(
    "dialog",
    {
      ref: box,
      className: `wv-dialog ${wide ? "wv-wide-dialog" : ""}`,
      "aria-labelledby": id,
      onCancel: (event) => {
        event.preventDefault();
        leave();
      },
      // a press beside it closes it; one that began inside, such as a selection, does not
      onMouseDown: (event) => (event.target === event.currentTarget ? leave() : undefined),
      // what is typed here is not meant for Airflow's own keys
      onKeyDown: (event) => event.stopPropagation(),
    },
    h(
      "div",
      { className: "wv-dialog-box" },
      h(
        "header",
        { className: "wv-dialog-head" },
        h("h3", { id }, title),
        h("button", { type: "button", className: "wv-icon-button", onClick: leave, "aria-label": "Close" }, h(Icon, { name: "close" })),
      ),
      h("div", { className: "wv-dialog-body" }, children),
      actions ? h("footer", { className: "wv-dialog-foot" }, h(Button, { onClick: leave }, leaveLabel), actions) : null,
    ),
  );
}
