"""Makes of a decision and its evidence, which are long, the few figures that a page of many windows shows."""

import math
from collections.abc import Mapping
from typing import Any

from windvane.windows import Window

_MOST_COLUMNS = 100
_MOST_LINES = 20


def summarize_decision(window: Window, *, decision: str, reason: str, alert: str, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What a window's row shows.

    Args:
        window: What was decided about.
        evidence: What `Evidence.as_json` returns; what an earlier release did not write counts as not seen.
    """
    harm, trial = (evidence.get(name) or {} for name in ("harm", "trial"))
    drifted = _texts(evidence.get("drifted"))
    realised, estimated = _realised(evidence), _estimated(evidence)
    return {
        "key": window.key,
        "start": window.start,
        "end": window.end,
        "decision": decision,
        "reason": reason,
        "alert": alert,
        "version": evidence.get("champion"),
        "rows": evidence.get("rows") or 0,
        "labelled_rows": evidence.get("labelled_rows") or 0,
        "metric": next((part["metric"] for part in _metrics(evidence) if part.get("metric")), None),
        "realised": realised,
        "estimated": estimated,
        "loss": None
        if _number(harm.get("loss")) is None
        else {name: _number(harm.get(name)) for name in ("expected", "p")} | {"value": harm["loss"]},
        "harmed": bool(evidence.get("harm_confirmed")),
        "drifted": drifted[:_MOST_COLUMNS],
        "drifted_count": len(drifted),
        "compared": evidence.get("compared") or 0,
        "moved": _texts(evidence.get("moved"))[:_MOST_LINES],
        "bad_inputs": _texts(evidence.get("bad_inputs"))[:_MOST_LINES],
        "released": bool(evidence.get("released")),
        "held": decision == "fix_data" and not evidence.get("released"),
        "tried": [_tried(candidate) for candidate in (trial.get("candidates") or [])[:_MOST_LINES]],
    }


def key_metric(summary: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """The figure that stands for a window and what kind it is: what was realised, else what was estimated, trusted or not."""
    for kind in ("realised", "estimated"):
        if summary[kind] is not None:
            return summary[kind]["value"], kind
    return None, None


def _metrics(evidence: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [evidence.get(name) or {} for name in ("realised", "estimate", "trial")]


def _realised(evidence: Mapping[str, Any]) -> dict[str, Any] | None:
    found = evidence.get("realised") or {}
    if _number(found.get("value")) is None:
        return None
    return {name: _number(found.get(name)) for name in ("value", "low", "high")} | {"rows": found.get("rows") or 0}


def _estimated(evidence: Mapping[str, Any]) -> dict[str, Any] | None:
    found = evidence.get("estimate") or {}
    if found.get("problem") or _number(found.get("value")) is None:
        return None
    trust = {"trusted": bool(evidence.get("estimate_trusted")), "trust": str(evidence.get("estimate_trust") or "")}
    return {name: _number(found.get(name)) for name in ("value", "low", "high")} | trust


def _tried(candidate: Mapping[str, Any]) -> str:
    gain, p = _number(candidate.get("gain")), _number(candidate.get("p"))
    told = "gain not known" if gain is None else f"gain {gain:+.4f}" + ("" if p is None else f" (p {p:.2g})")
    return f"{candidate.get('name')}: {candidate.get('train_rows')} rows, {told}"


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
