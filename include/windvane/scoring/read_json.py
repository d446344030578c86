"""Reads JSON fast, and as strictly as a protocol needs it: no name twice in one object; and shows names in messages."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from windvane.scoring.convert_values import NotJson
from windvane.scoring.request_error import RequestError

_COLON, _QUOTE, _SPACE = b':" '
# from here on NumPy is quicker than searching the bytes
_MANY_BYTES = 8_000


def read_json(body: bytes) -> Any:
    """Read JSON, exactly as strict as the JSON of RFC 8259 with unique names, except that NaN and infinity become `NotJson`.

    orjson is fast and keeps the last of two equal names in silence. Its document is taken only if the body has no space before a
    colon, and no more colons after a quotation mark than the document has names where the protocols have any: then no name came
    twice.

    Raises:
        RequestError: 400.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _read_slowly(body)
    if isinstance(document, dict) and _count_colons(body) == _count_names(document):
        return document
    return _read_slowly(body)


def _count_colons(body: bytes) -> int | None:
    """How many colons follow a quotation mark; None if one may follow white space."""
    if len(body) < _MANY_BYTES:
        unspaced = (b" " not in body or b" :" not in body) and b"\n" not in body and b"\t" not in body and b"\r" not in body
        return body.count(b'":') if unspaced else None
    marks = np.frombuffer(body, dtype="u1")
    # what comes before each colon; the first byte of a document is none
    before = marks[np.flatnonzero(marks == _COLON) - 1]
    return None if before.min(initial=255) <= _SPACE else int(np.count_nonzero(before == _QUOTE))


def _count_names(document: dict[str, Any]) -> int:
    count = len(document)
    for part in document.values():
        if type(part) is dict:
            count += len(part)
        elif type(part) is list and part and set(map(type, part)) == {dict}:
            count += sum(map(len, part))
            if "parameters" in part[0]:
                count += sum(len(row["parameters"]) for row in part if type(row.get("parameters")) is dict)
    return count


def _read_slowly(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=NotJson)
    except UnicodeDecodeError as exc:
        raise RequestError(400, f"body: not valid UTF-8 at byte {exc.start}") from exc
    except RecursionError as exc:
        raise RequestError(400, "body: JSON is nested too deeply; rows are flat") from exc
    except json.JSONDecodeError as exc:
        raise RequestError(400, f"body: not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    except ValueError as exc:
        # the JSON decoder refuses integers of more digits than Python reads
        raise RequestError(400, "body: JSON holds an integer with too many digits; allowed are 64-bit integers") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError(400, f"body: the field {twice([name for name, _ in pairs])} appears twice in one object; allowed is once")
    return found


def twice(names: Sequence[str]) -> str:
    """The first name that comes twice, for a message."""
    seen: set[str] = set()
    return next((quoted(name) for name in names if name in seen or seen.add(name)), "?")  # type: ignore[func-returns-value]


def show_names(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    shown = ", ".join(map(quoted, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "none"


def quoted(name: str) -> str:
    """A name as a client wrote it: short, printable, on one line."""
    return ascii(name[:80])
