"""Fills the catalog again from the lake, the reports, the ledger and the bundles. It removes nothing, and may be repeated or cut off."""

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windvane.catalog import Catalog
from windvane.ledger import Ledger
from windvane.object_path import ObjectPath
from windvane.read_manifest import MANIFEST
from windvane.settings import Settings
from windvane.summarize_decision import summarize_decision
from windvane.windows import Window

if TYPE_CHECKING:
    from windvane.lake import Lake

log = logging.getLogger(__name__)

_WINDOWS_AT_ONCE = 200
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Reindexed:
    """How much of a model was found, and how much of it was not in the catalog or differed.

    Attributes:
        windows: Decisions in the lake.
        batches: Newest batches of the windows of data.
        versions: Versions in the ledger.
        changed: Rows of the catalog that are new or other than before.
    """

    windows: int
    batches: int
    versions: int
    changed: int


def reindex_model(settings: Settings, model: str) -> Reindexed:
    """Bring the catalog of a model in line with what is stored; what tasks record meanwhile stays.

    Raises:
        StorageError: If the lake, the reports or the database cannot be read.
        ServiceUnavailable: If the database does not answer.
    """
    from windvane.lake import Lake

    lake, began = Lake(settings.lake), datetime.now(UTC)
    written = _written(settings, model)
    with closing(Catalog(settings.database)) as catalog, closing(Ledger(settings.database)) as ledger:
        windows = batches = changed = 0
        for summaries in _decisions(settings, lake, model, written):
            windows += len(summaries)
            changed += catalog.fill_windows(model, summaries, before=began)
        found = list(_batches(settings, lake, model, written))
        for at in range(0, len(found), _WINDOWS_AT_ONCE):
            part = found[at : at + _WINDOWS_AT_ONCE]
            batches += len(part)
            changed += catalog.fill_batches(model, part, before=began)
        digests = {row.version: row.digest for row in ledger.history(model)}
        digests |= {known["version"]: known["digest"] for known in catalog.versions(model) if known["digest"]}
        before = {known["version"]: known for known in catalog.versions(model)}
        for version, digest in sorted(digests.items()):
            _fill_version(settings, catalog, model, version, digest)
        changed += sum(before.get(known["version"]) != known for known in catalog.versions(model))
    return Reindexed(windows=windows, batches=batches, versions=len(digests), changed=changed)


def _written(settings: Settings, model: str) -> dict[str, datetime]:
    """The files of a model's windows, `<key>/<name>`, and when each was written."""
    place = settings.reports / model
    if isinstance(place, ObjectPath):
        return {file.relative_to(place).as_posix(): moment for file, moment in place.objects()}
    files = (file for file in place.glob("*/*") if file.is_file())
    return {file.relative_to(place).as_posix(): datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in files}


def _decisions(settings: Settings, lake: "Lake", model: str, written: Mapping[str, datetime]) -> Iterator[list[dict[str, Any]]]:
    """The decisions in the lake as the catalog shows them, some hundred at a time: their evidence is long."""
    starts = sorted(lake.read(model, "decisions", columns=["window_start"])["window_start"].dropna())
    at = 0
    while at < len(starts):
        first, last = starts[at], starts[min(at + _WINDOWS_AT_ONCE, len(starts)) - 1]
        span = Window(first.to_pydatetime(), last.to_pydatetime() + _INSTANT)
        rows = lake.read(model, "decisions", window=span, time="window_start")
        yield [_decision(settings, model, row, written) for row in rows.to_dict("records")]
        at = bisect_right(starts, last)


def _decision(settings: Settings, model: str, row: "Mapping[Any, Any]", written: Mapping[str, datetime]) -> dict[str, Any]:
    window = Window(row["window_start"].to_pydatetime(), row["window_end"].to_pydatetime())
    stored = f"{window.key}/decision.json"
    told = _read_json(settings.reports / model / window.key / "decision.json") if stored in written else {}
    # the report's evidence and its alert are of this decision only if both say the same
    same = all(told.get(name) == row[name] for name in ("decision", "reason"))
    made = summarize_decision(
        window,
        decision=str(row["decision"]),
        reason=str(row["reason"]),
        alert=str(told.get("alert") or "") if same else "",
        evidence=json.loads(row["evidence"]),
    )
    report = f"{model}/{window.key}/drift.html" if f"{window.key}/drift.html" in written else None
    return made | {"report": report, "decided_at": written[stored] if same else None}


def _batches(settings: Settings, lake: "Lake", model: str, written: Mapping[str, datetime]) -> Iterator[dict[str, Any]]:
    """The newest batch of each window: the one in the lake, or one that was refused later."""
    committed = {commit.window: commit for commit in lake.windows(model)}
    judged: dict[str, list[tuple[datetime, str]]] = {}
    for name, moment in written.items():
        key, _, file = name.partition("/")
        if file.startswith("validation-") and file.endswith(".json"):
            judged.setdefault(key, []).append((moment, file))
    refused: dict[Window, dict[str, Any]] = {}
    for key, files in judged.items():
        for moment, file in sorted(files):
            told = _read_json(settings.reports / model / key / file)
            window = Window.from_extra(told)
            if window is None or told.get("refused") is not True:
                continue
            refused[window] = {
                "window": window,
                "rows": 0,
                "quarantined": told.get("invalid_rows") or 0,
                "refused": True,
                "version": None,
                "reasons": list(told.get("reasons") or ()),
                "report": _page(model, key, file, written),
                "run": None,
                "at": moment,
            }
    for window, commit in committed.items():
        if window in refused and refused[window]["at"] > commit.time:
            continue
        file = f"validation-{commit.metadata.get('digest', '')[:12]}.json"
        told = _read_json(settings.reports / model / window.key / file) if f"{window.key}/{file}" in written else {}
        refused.pop(window, None)
        yield {
            "window": window,
            "rows": commit.rows,
            "quarantined": int(commit.metadata.get("quarantined", 0)),
            "refused": False,
            "reasons": list(told.get("reasons") or ()),
            "report": _page(model, window.key, file, written),
            "version": commit.version,
            "run": None,
            "at": commit.time,
        }
    yield from refused.values()


def _page(model: str, key: str, file: str, written: Mapping[str, datetime]) -> str | None:
    page = file.removesuffix(".json") + ".html"
    return f"{model}/{key}/{page}" if f"{key}/{page}" in written else None


def _fill_version(settings: Settings, catalog: Catalog, model: str, version: int, digest: str) -> None:
    """Record a version from its bundle and its verdict, as far as they are still there."""
    place = settings.bundles / digest / MANIFEST
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        log.info("%s version %d: its bundle %s is gone; only the ledger knows it", model, version, digest[:12])
        return
    if hashlib.sha256(data).hexdigest() != digest:
        log.warning("%s: is not what its name says, so version %d of %s is left as it is", place, version, model)
        return
    manifest = json.loads(data)
    catalog.record_version(
        model,
        version=version,
        digest=digest,
        manifest=manifest,
        run_id=None,
        experiment_id=None,
        seconds=None,
        size_bytes=_size(settings, digest),
        run=None,
        trained_at=_moment(place),
    )
    verdict = _read_json(settings.bundles / "verdicts" / f"{digest}.json")
    if verdict:
        gates = [gate for gate in verdict.get("gates") or () if isinstance(gate, dict)]
        refused = "; ".join(f"{gate.get('name')}: {gate.get('reason')}" for gate in gates if gate.get("passed") is not True)
        reason = refused or f"passed {', '.join(str(gate.get('name')) for gate in gates)}"
        catalog.record_verdict(model, version=version, passed=verdict.get("passed") is True, reason=reason)


def _size(settings: Settings, digest: str) -> int | None:
    """Bytes of a bundle's files; not known of one in an object store, whose listing does not tell."""
    folder = settings.bundles / digest
    return None if isinstance(folder, ObjectPath) else sum(file.stat().st_size for file in folder.iterdir())


def _moment(place: Path | ObjectPath) -> datetime:
    return place.modified() if isinstance(place, ObjectPath) else datetime.fromtimestamp(place.stat().st_mtime, UTC)


def _read_json(place: Path | ObjectPath) -> dict[str, Any]:
    """The object in a file; nothing where there is none that can be read."""
    try:
        value = json.loads(place.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        log.warning("%s: cannot be read, so it does not count: %s", place, exc)
        return {}
    return value if isinstance(value, dict) else {}
