// The dialogs in which a person says what should happen. Each says exactly what will, and shows errors as they came.

import { Button, Text } from "./elements.js";
import { Dialog } from "./dialog.js";
import { describeAction } from "./describe_action.js";
import { h, useId, useState } from "./host.js";
import { Icon } from "./shapes.js";
import { useZone } from "./format.js";

export function ActionDialog({ name, args, model, close, done }) {
  const zone = useZone();
  const [values, setValues] = useState(
    () => ({ version: args.version === undefined ? "" : String(args.version), window_start: "", window_end: "", reason: "" }),
  );
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const form = useId();
  const action = describeAction(name, { model, args, values });

  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      done(await action.run());
    } catch (reason) {
      setError(reason.message);
      setBusy(false);
    }
  };
  const set = (field) => (event) => setValues({ ...values, [field]: event.target.value });
  return h(
    Dialog,
    {
      title: action.title,
      close,
      busy,
      actions: h(
        Button,
        {
          type: "submit",
          form,
          primary: !action.danger,
          danger: action.danger,
          disabled: busy || Boolean(action.missing),
          title: action.missing || undefined,
        },
        busy ? "Working…" : action.confirm,
      ),
    },
    h(
      "form",
      { id: form, className: "wv-form", onSubmit: submit },
      action.text.map((line, index) => h("p", { key: index }, line)),
      action.warnings.filter(Boolean).map(
        (line, index) => h("p", { key: index, className: "wv-line wv-warning" }, h(Icon, { name: "warn" }), h(Text, null, line)),
      ),
      action.fields.map((field) => h(Field, { key: field.name, field, zone, value: values[field.name], onChange: set(field.name) })),
      error ? h("p", { className: "wv-error", role: "alert" }, h(Text, null, error)) : null,
    ),
  );
}

function Field({ field, zone, value, onChange }) {
  const id = useId();
  const common = { id, value, onChange, required: field.required, "aria-describedby": `${id}-hint` };
  const control =
    field.type === "moment"
      ? h("input", { ...common, type: "datetime-local", step: 1 })
      : field.type === "choice"
        ? h(
            "select",
            { ...common, autoFocus: true },
            h("option", { value: "" }, "Choose…"),
            field.options.map(([key, label]) => h("option", { key, value: key }, label)),
          )
        : h("textarea", { ...common, rows: 3, maxLength: field.max, autoFocus: true });
  const hint = field.type === "moment" ? `${field.hint ?? ""} In ${zone}.`.trim() : field.hint;
  return h(
    "div",
    { className: "wv-field" },
    h("label", { htmlFor: id }, field.label, field.required ? h("span", { className: "wv-muted" }, " (required)") : null),
    control,
    h("span", { id: `${id}-hint`, className: "wv-muted" }, hint),
  );
}
