"""Writes into the release ledger that a challenger was not approved; what serves stays."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from windvane.errors import StaleEpoch
from windvane.ledger import Ledger, Release
from windvane.settings import Settings

log = logging.getLogger(__name__)

REJECTED = "rejected by "
"""How the reason of a person's no begins."""

_PATIENCE_SECONDS = 900
_POLL_SECONDS = 2


def is_answer(row: Release) -> bool:
    """Whether a row says that a challenger was not approved: it repeats what serves, so it overtakes nothing."""
    return row.action == "refuse" and "answer" in row.evidence


def find_answer(settings: Settings, model: str, *, run: str) -> Release | None:
    """The row that a run wrote already; None when it wrote none."""
    ledger = Ledger(settings.database)
    try:
        return _of_run(ledger, model, run)
    finally:
        ledger.close()


def find_rejection(settings: Settings, model: str, digest: str) -> Release | None:
    """The row with which a person rejected a bundle; None if none did, or if it was released since."""
    ledger = Ledger(settings.database)
    try:
        rows = [row for row in ledger.history(model) if row.digest == digest]
    finally:
        ledger.close()
    return rows[-1] if rows and is_answer(rows[-1]) and rows[-1].evidence["answer"] == "reject" else None


def record_refusal(
    settings: Settings,
    model: str,
    *,
    version: int,
    digest: str,
    run: str,
    actor: str,
    reason: str,
    approval: Mapping[str, Any],
    sleep: Callable[[float], None] = time.sleep,
) -> Release | None:
    """Append `refuse` once per run; while the traffic of a rollout moves, wait until it is settled.

    Args:
        run: `<dag_id>/<run_id>` of the run that asked.
        approval: Who answered, when and why; `by` is None when nobody did.

    Returns:
        The row; None when a rollout did not settle in time, which the log says.
    """
    ledger = Ledger(settings.database)
    end = time.monotonic() + _PATIENCE_SECONDS
    try:
        while not (found := _of_run(ledger, model, run)):
            last = ledger.last(model)
            if last is None or last.until is None:
                try:
                    return ledger.append(
                        model,
                        expected_epoch=last.epoch if last else 0,
                        action="refuse",
                        version=version,
                        digest=digest,
                        traffic=last.traffic if last else {},
                        actor=actor,
                        reason=reason,
                        evidence={"run": run, "answer": "timeout" if approval["by"] is None else "reject", "approval": dict(approval)},
                    )
                except StaleEpoch as exc:
                    log.info("something else was released at the same moment, trying again: %s", exc)
                    continue
            if time.monotonic() > end:
                log.warning("the refusal is not in the ledger: version %d is being shifted", last.version)
                return None
            sleep(_POLL_SECONDS)
        return found
    finally:
        ledger.close()


def _of_run(ledger: Ledger, model: str, run: str) -> Release | None:
    return next((row for row in reversed(ledger.history(model)) if is_answer(row) and row.evidence.get("run") == run), None)
