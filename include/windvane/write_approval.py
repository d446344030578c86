"""Writes what a person reads before they approve a challenger, as Markdown in which data stays data."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

_MOST_SLICES = 10
_MOST_GATES = 30
_MOST_DIFFERENCES = 60
_MOST_CHARACTERS = 48
_MOST_LINE = 120
_MOST_PROSE = 600
_JOINER = "\u200d"  # within emoji
_APART = "\u2060"  # no width: keeps what looks like an address from becoming a link
_MARKUP = re.compile(r"([\\`*_\[\]|~$#!])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def challenger_markdown(description: Mapping[str, Any], *, links: Mapping[str, str] | None = None) -> str:
    """Tell a challenger in GitHub's Markdown: why now, the comparison with the champion, and what changed.

    Values of the data stand in code spans or are escaped, cut off where they are long, and in one line: none can become markup, HTML,
    a link, or turn the direction of what stands beside it.

    Args:
        description: What `describe_challenger` returned.
        links: Label to address, for the last line.
    """
    parts = [_headline(description), _why(description)]
    parts += [f"### {title}\n\n{text}" for title, text in _sections(description) if text]
    if links:
        parts.append(" · ".join(f"[{_prose(label)}]({quote(url, safe='/:?=&%#,;+~@.-_')})" for label, url in links.items()))
    return "\n\n".join(parts) + "\n"


def _headline(told: Mapping[str, Any]) -> str:
    instead = "as the first one: nothing serves yet."
    if told["against"] is not None:
        since = f", which serves since {_moment(told['against_since'])}" if told["against_since"] else ""
        instead = f"instead of version {told['against']}{since}."
    trained = (
        f" It was trained on the rows from {_moment(told['train']['start'])} to {_moment(told['train']['end'])}" if told["train"] else ""
    )
    trained += f", at {_moment(told['trained_at'])}." if trained and told["trained_at"] else "." if trained else ""
    failed = "" if told["passed"] else "\n\n**Its gates did not pass.** Approving it overrides them."
    return f"**Version {told['version']}** would serve {instead}{trained} Times are UTC.{failed}"


def _why(told: Mapping[str, Any]) -> str:
    decision = told["decision"]
    if decision is None:
        return "**Why now:** a person, a clock or new data started the training; no decision of the monitor did."
    return f"**Why now:** of the window until {_moment(decision['window_end'])} it was decided {_code(decision['decision'])}: " + _prose(
        decision["reason"]
    )


def _sections(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows = told["rows"].get("holdout")
    both = ("Challenger", "Champion", "Difference")
    values = [[_code(part["name"]), *_compared(part)] for part in told["metrics"]]
    yield f"Metrics{f' on the same {rows:,} rows' if rows else ''}", _table(("Metric", *both), values)
    yield f"Slices by {_code(told['metric'])}, worst first", _slices(told["slices"], both)
    gates = [[_prose(gate["name"]), _result(gate["passed"]), _prose(gate["reason"])] for gate in told["gates"][:_MOST_GATES]]
    yield "Gates", _table(("Gate", "Result", "Why"), gates)
    groups = [
        [_code(part["column"]), _code(part["measure"]), _number(part["challenger"]), _number(part["champion"]), _number(part["at_most"])]
        for part in told["fairness"]
    ]
    yield "Fairness", _table(("Column", "Measure", "Challenger", "Champion", "At most"), groups)
    yield "Cost of serving", _table(("", "Challenger", "Champion"), _costs(told))
    windows = [
        [name, _moment(part["start"]), _moment(part["end"]), f"{told['rows'].get(key):,}" if told["rows"].get(key) else "–"]
        for name, key, part in (("Trained on", "training", told["train"]), ("Held out", "holdout", told["holdout"]))
        if part
    ]
    yield "Data", _table(("", "From", "Until, exclusive", "Rows"), windows)
    if told["against"] is not None:
        yield f"Config since version {told['against']}", _config(told["config_diff"])


def _slices(slices: Sequence[Mapping[str, Any]], both: Sequence[str]) -> str:
    shown = [
        [_code(part["column"]), _code(part["value"]), f"{part['rows']:,}", *_compared(part), _result(part["passed"])]
        for part in slices[:_MOST_SLICES]
    ]
    text = _table(("Column", "Value", "Rows", *both, "Result"), shown)
    left = len(slices) - len(shown)
    return f"{text}\n\n{left} more are on the model's page." if left else text


def _costs(told: Mapping[str, Any]) -> Iterator[list[str]]:
    if told["latency"]:
        latency = told["latency"]
        yield ["One row, median", _unit(latency.get("challenger_ms"), "ms"), _unit(latency.get("champion_ms"), "ms")]
    sizes = told["size_bytes"]
    if sizes["challenger"] is not None:
        yield ["Size", _bytes(sizes["challenger"]), _bytes(sizes["champion"])]


def _config(lines: Sequence[str]) -> str:
    if not lines:
        return "No field differs."
    # a list, not a block: Airflow shows the lines of a block as one
    shown = [f"- {_code(line, _MOST_LINE, in_table=False)}" for line in lines[:_MOST_DIFFERENCES]]
    left = len(lines) - len(shown)
    return "\n".join([*shown, *([f"- and {left} more lines"] if left else [])])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def _compared(part: Mapping[str, Any]) -> list[str]:
    difference = part["difference"]
    return [_number(part["challenger"]), _number(part["champion"]), "–" if difference is None else f"{difference:+.4f}"]


def _result(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _bytes(size: int | None) -> str:
    return "–" if size is None else _unit(size / 1e6, "MB") if size >= 1e6 else _unit(size / 1e3, "kB")


def _unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _moment(text: Any) -> str:
    """A moment in ISO 8601 for people; UTC."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)", str(text))
    if not found:
        return _prose(str(text))
    return found[1] if found[2] == "00:00" else f"{found[1]} {found[2]}"


def _prose(text: str) -> str:
    """A sentence that may quote data."""
    seen = _cut(_visible(str(text)), _MOST_PROSE)
    escaped = "".join(_ENTITIES.get(c, c) for c in _MARKUP.sub(r"\\\1", seen))
    return (
        escaped.replace("://", f":{_APART}//").replace("@", f"{_APART}@").replace("www.", f"www{_APART}.").replace("WWW.", f"WWW{_APART}.")
    )


def _code(value: Any, most: int = _MOST_CHARACTERS, *, in_table: bool = True) -> str:
    """A value of the data, as a code span."""
    text = _cut(_visible(str(value)), most)
    if not text.strip():
        return "*(empty)*"
    if in_table:
        # a cell ends at each pipe that has no backslash, and two backslashes are taken for one
        text = re.sub(r"\\(?=\|)", r"\\ ", text).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") or (text.startswith(" ") and text.endswith(" ")) else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _visible(text: str) -> str:
    """One line, with what is invisible or turns the direction of the text written out."""
    return "".join(
        " " if c in "\t\r\n" else c if c == _JOINER or unicodedata.category(c) not in _INVISIBLE else f"\\u{ord(c):04x}" for c in text
    )


_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
