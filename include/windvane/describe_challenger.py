"""Describes a challenger against the champion that its gates compared it with: what people look at before they approve it."""

import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from windvane.bundle import Bundle, open_bundle
from windvane.catalog import Catalog
from windvane.compare_configs import diff_configs
from windvane.decision_evidence import TRAININGS
from windvane.errors import BundleError, StorageError
from windvane.ledger import Ledger, Release
from windvane.read_manifest import MANIFEST
from windvane.resolve_release import promoted_versions, read_verdict
from windvane.settings import Settings
from windvane.shared_folder import BundleRoot
from windvane.windows import as_utc, parse_duration

State = Literal["waiting", "promoted", "refused", "reverted", "superseded", "none"]

CONFIG_NOT_KNOWN = "not known: the champion was made before configs were kept"
_MOST_WINDOWS = 500


def describe_challenger(settings: Settings, model: str, *, version: int | None = None, digest: str | None = None) -> dict[str, Any] | None:
    """Tell all that is known of a challenger, as JSON values; what is not known is None or empty.

    Bundles, verdicts and the database are read, never MLflow or the lake.

    Args:
        version: Of the challenger; None for the one that was registered last.
        digest: Of its bundle; None for the one under which the catalog or the ledger knows the version.

    Returns:
        None if there is no such challenger.

    Raises:
        StorageError: If an SQLite file cannot be read.
        ServiceUnavailable: If another database does not answer.
    """
    with closing(Ledger(settings.database)) as ledger, closing(Catalog(settings.database)) as catalog:
        history, versions = ledger.history(model), catalog.versions(model)
        windows = catalog.windows(model, most=_MOST_WINDOWS)
    known: Mapping[str, Any] = next((row for row in versions if version in (None, row["version"])), {})
    version = known.get("version") if version is None else version
    digest = digest or known.get("digest") or _digest_of(history, version)
    if version is None or digest is None:
        return None
    verdict = _verdict(settings, digest)
    served = verdict["champion"] if "champion" in verdict else _serving(history)
    bundle, champion = _bundle(settings, digest), _bundle(settings, served)
    manifest: Mapping[str, Any] = bundle.manifest if bundle else {}
    against = next((row.version for row in reversed(history) if row.digest == served), None) if served else None
    snapshot, trained_at = manifest.get("snapshot") or {}, known.get("trained_at") or (_made_at(bundle) if bundle else None)
    passed = verdict.get("passed") if verdict else known.get("passed")
    metric = verdict.get("metric") or known.get("metric")
    return {
        "version": version,
        "digest": digest,
        "against": against,
        "against_since": _since(history, served),
        "metric": metric,
        "trained_at": trained_at,
        "train": _span(snapshot.get("train")),
        "holdout": _span(snapshot.get("holdout")),
        "rows": {name: (manifest.get("rows") or {}).get(name) for name in ("training", "holdout")},
        "metrics": _metrics(verdict, manifest, metric),
        "passed": passed,
        "gates": [dict(gate) for gate in verdict.get("gates") or ()],
        "slices": [{**part, "difference": _difference(part)} for part in verdict.get("slices") or ()],
        "fairness": [dict(part) for part in verdict.get("disparities") or ()],
        "latency": dict(verdict["latency"]) if verdict.get("latency") else None,
        "size_bytes": {"challenger": _size(bundle), "champion": _size(champion)},
        "decision": _decision(settings, model, windows, manifest, against=against),
        "config_diff": _config_diff(champion.manifest if champion else {}, manifest) if served else [],
        "state": _state(history, versions, version=version, digest=digest, passed=passed, trained_at=trained_at),
    }


def _bundle(settings: Settings, digest: str | None) -> Bundle | None:
    """The bundle, read once by each process; None if it is not there any more."""
    try:
        return _opened(settings.bundles, digest) if digest else None
    except (BundleError, StorageError):
        return None


@functools.lru_cache(maxsize=64)
def _opened(root: BundleRoot, digest: str) -> Bundle:
    return open_bundle(root, digest)


def _verdict(settings: Settings, digest: str) -> Mapping[str, Any]:
    try:
        return read_verdict(settings, digest) or {}
    except BundleError:
        return {}


def _digest_of(history: Sequence[Release], version: int | None) -> str | None:
    return next((row.digest for row in reversed(history) if row.version == version), None)


def _serving(history: Sequence[Release]) -> str | None:
    """The bundle that serves now."""
    return _digest_of(history, history[-1].serving) if history and history[-1].serving is not None else None


def _since(history: Sequence[Release], digest: str | None) -> str | None:
    """When a bundle came to serve last."""
    rows = (row for row in reversed(history) if digest and row.digest == digest and row.action in ("promote", "rollback"))
    return next((row.time.isoformat() for row in rows), None)


def _made_at(bundle: Bundle) -> str | None:
    try:
        return datetime.fromtimestamp((bundle.path / MANIFEST).stat().st_mtime, UTC).isoformat()
    except OSError:
        return None


def _span(window: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"start": window.get("window_start"), "end": window.get("window_end")} if window else None


def _metrics(verdict: Mapping[str, Any], manifest: Mapping[str, Any], metric: str | None) -> list[dict[str, Any]]:
    """Both models on the same holdout rows; the champion's own training is no comparison."""
    measured = [dict(part) for part in verdict.get("measured") or ()]
    if not measured:
        own = sorted((manifest.get("metrics") or {}).items(), key=lambda item: item[0] != metric)
        measured = [{"name": name, "challenger": value, "champion": None} for name, value in own]
    return [{**part, "difference": _difference(part)} for part in measured]


def _difference(part: Mapping[str, Any]) -> float | None:
    ours, theirs = part.get("challenger"), part.get("champion")
    return None if ours is None or theirs is None else float(ours) - float(theirs)


def _size(bundle: Bundle | None) -> int | None:
    try:
        return bundle.size_bytes() if bundle else None
    except OSError:
        return None


def _decision(
    settings: Settings, model: str, windows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], *, against: int | None
) -> dict[str, Any] | None:
    """The decision of the monitor that the training followed; None when a person or a clock asked for it."""
    snapshot = manifest.get("snapshot") or {}
    if not snapshot or against is None:
        return None
    delay = ((manifest.get("config") or {}).get("data") or {}).get("label_delay")
    known_until = as_utc(snapshot["holdout"]["window_end"]) + (parse_duration(delay) if delay else timedelta(0))
    before = [told for told in windows if as_utc(told["end"]) <= known_until]
    newest = max(before, key=lambda told: str(told["end"]), default=None)
    if newest is None or newest["decision"] not in TRAININGS or newest["version"] != against:
        return None
    if (newest["decision"] == "recalibrate") != bool(manifest.get("recalibrated_from")):
        return None
    if newest["decision"] == "retrain" and not _was_planned(settings, model, newest["key"], snapshot["train"]["window_start"]):
        return None
    return {"window_end": newest["end"], "decision": newest["decision"], "reason": newest["reason"]}


def _was_planned(settings: Settings, model: str, key: str, start: str) -> bool:
    """Whether a decision asked for a training from a moment on; one whose file is gone may have."""
    try:
        plan = json.loads((settings.reports / model / key / "decision.json").read_text(encoding="utf-8"))["evidence"]["plan"]
        return as_utc(plan["train_start"]) == as_utc(start)
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _config_diff(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> list[str]:
    before, after = champion.get("config"), challenger.get("config")
    return diff_configs(before, after) if before and after else [CONFIG_NOT_KNOWN]


def _state(
    history: Sequence[Release],
    versions: Sequence[Mapping[str, Any]],
    *,
    version: int,
    digest: str,
    passed: bool | None,
    trained_at: str | None,
) -> State:
    """What became of it."""
    own = [row for row in history if row.digest == digest and row.action in _BECAME]
    if own:
        became = _BECAME[own[-1].action]
        gone = became == "promoted" and version not in {row.version for row in promoted_versions(list(history))}
        return "reverted" if gone else became
    if passed is None:
        return "none"
    if not passed:
        return "refused"
    newer = any(row["version"] > version and row["passed"] for row in versions)
    since = trained_at is not None and any(row.action in ("promote", "rollback") and row.time > as_utc(trained_at) for row in history)
    return "superseded" if newer or since else "waiting"


_BECAME: dict[str, State] = {
    "promote": "promoted",
    "rollback": "promoted",
    "refuse": "refused",
    "revert": "reverted",
    "shift": "waiting",
}
