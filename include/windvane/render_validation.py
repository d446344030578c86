"""The HTML page of a validation: counts and the suite's own text, escaped, never a value of the data."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1f2937; background: #fff; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr + tr { border-top: 1px solid #e5e7eb; }
td { overflow-wrap: anywhere; }
.good { color: #15803d; }
.bad { color: #b91c1c; }
.odd { color: #b45309; }
@media (prefers-color-scheme: dark) {
  body { color: #e5e7eb; background: #111827; }
  tr + tr { border-color: #374151; }
  .good { color: #4ade80; }
  .bad { color: #f87171; }
  .odd { color: #fbbf24; }
}
"""


def render_validation(result: Mapping[str, Any]) -> str:
    """Turn a stored validation result into a page that needs no script and no network."""
    verdict = ("bad", "refused") if result["refused"] else ("odd", "accepted in part") if result["invalid_rows"] else ("good", "accepted")
    facts = [
        ("Verdict", f'<b class="{verdict[0]}">{verdict[1]}</b>'),
        ("Window", escape(f"{result['window_start']} to {result['window_end']}")),
        ("Rows", escape(f"{result['rows']} staged, {result['valid_rows']} valid, {result['invalid_rows']} quarantined")),
        ("Batch", f"<code>{escape(str(result['digest'])[:20])}</code>"),
    ]
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result["reasons"])
    title = f"Validation of {escape(str(result['model']))}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<table>{''.join(f'<tr><th>{name}</th><td>{text}</td></tr>' for name, text in facts)}</table>"
        + (f"<h2>Reasons</h2><ul>{reasons}</ul>" if reasons else "")
        + _expectations(result["expectations"])
        + "</body></html>\n"
    )


def _expectations(judged: Sequence[Mapping[str, Any]]) -> str:
    if not judged:
        return "<p>No expectation was evaluated.</p>"
    rows = "".join(
        f'<tr><td class="{"good" if entry["success"] else "bad" if entry["severity"] == "critical" else "odd"}">'
        f"{'passed' if entry['success'] else 'failed'}</td>"
        f"<td>{escape(entry['columns'])}</td><td>{escape(entry['name'])}</td><td>{escape(_count(entry))}</td></tr>"
        for entry in judged
    )
    return f"<h2>Expectations</h2><table><tr><th>Result</th><th>Column</th><th>Expectation</th><th>Failing rows</th></tr>{rows}</table>"


def _count(entry: Mapping[str, Any]) -> str:
    if entry["problem"]:
        return str(entry["problem"])
    return "" if entry["unexpected"] is None else str(entry["unexpected"])
