"""The steps of a deployment: package, rehearse, roll out, promote. Each can run twice, or be killed and run again.

What serves is decided by the release ledger alone. A target (a server process, or containers) brings the endpoint in
line with the newest row; everything else (the MLflow alias, containers, HAProxy's state) is a cache of it.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from windvane.config import ModelConfig
from windvane.errors import RehearsalFailed, RolloutFailed, StaleEpoch, WindvaneError
from windvane.ledger import Action, Ledger, Release
from windvane.resolve_release import Plan, promoted_versions, read_verdict, resolve_release
from windvane.settings import Settings

__all__ = [
    "Plan",
    "Target",
    "open_target",
    "package",
    "promote",
    "promoted_versions",
    "read_verdict",
    "rehearse",
    "resolve_release",
    "revert_expired",
    "roll_out",
    "sync_alias",
]

log = logging.getLogger(__name__)


class Target(Protocol):
    """Where a model serves. Every step may be repeated; `shift`, `promote` and `revert` bring the endpoint in line with a row."""

    observe_seconds: float

    def prepare(self, plan: Plan) -> dict[str, Any]:
        """Make what serves the version, and see that there is an endpoint for it."""

    def rehearse(self, plan: Plan) -> dict[str, Any]:
        """Score the golden rows in the runtime that would serve; raise RehearsalFailed if they differ."""

    def shift(self, release: Release) -> None:
        """Give traffic to the version, keeping what serves now at hand."""

    def observe(self, plan: Plan) -> dict[str, Any]:
        """Wait until the endpoint serves the version; raise RolloutFailed if it does not."""

    def promote(self, release: Release) -> None:
        """Let go of what served before."""

    def revert(self, release: Release) -> None:
        """Give the traffic back."""

    def align(self, release: Release) -> list[str]:
        """Bring the endpoint back in line with the newest row; return what was done."""


def open_target(config: ModelConfig, settings: Settings) -> Target:
    """The target that the config names."""
    if config.deploy.target == "docker":
        from windvane.docker_target import DockerTarget

        return DockerTarget(config, settings)
    from windvane.process_target import ProcessTarget

    return ProcessTarget(config, settings)


def package(config: ModelConfig, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Make what serves the version: an image, or nothing for a process."""
    return {} if plan.serves else open_target(config, settings).prepare(plan)


def rehearse(config: ModelConfig, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Let the candidate score the golden rows in the runtime that would serve it, before it takes traffic.

    Raises:
        RehearsalFailed: If it does not load or predicts something else; the ledger has a row `refuse`, what serves stays.
    """
    if plan.serves:
        return {}
    try:
        seen = open_target(config, settings).rehearse(plan)
    except RehearsalFailed as exc:
        _refuse(settings, plan, exc)
        raise
    log.info("%s version %d behaves in rehearsal: %s", plan.model, plan.version, seen)
    return seen


def roll_out(config: ModelConfig, settings: Settings, plan: Plan, *, evidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Shift traffic to the version and watch until the endpoint serves it.

    Raises:
        RolloutFailed: If the endpoint does not come to serve it; traffic went back and the ledger says so.
        StaleEpoch: If something else was released since the plan was made.
    """
    if plan.serves:
        return {}
    target = open_target(config, settings)
    target.prepare(plan)
    ledger = Ledger(settings.database)
    try:
        release = _shift_row(ledger, plan, seconds=target.observe_seconds, evidence=evidence or {})
        if release.action != "shift":
            return {"epoch": release.epoch}
        log.info("ledger epoch %d: %s shifts to version %d until %s", release.epoch, plan.model, plan.version, release.until)
        try:
            target.shift(release)
            seen = target.observe(plan)
        except WindvaneError as exc:
            target.revert(_revert(ledger, release, actor=plan.actor, reason=str(exc), evidence={"retryable": exc.retryable}))
            raise
        log.info("%s serves version %d: %s", plan.model, plan.version, seen)
        return seen | {"epoch": release.epoch}
    finally:
        ledger.close()


def promote(config: ModelConfig, settings: Settings, plan: Plan, *, evidence: Mapping[str, Any] | None = None) -> Release:
    """Make the shifted version the champion: in the ledger, then at the target and in MLflow.

    Raises:
        StaleEpoch: If something else was released since, or the shift was reverted.
    """
    ledger = Ledger(settings.database)
    try:
        release = _promoted_row(ledger, plan, evidence=evidence or {})
    finally:
        ledger.close()
    log.info("ledger epoch %d: %s of %s version %d", release.epoch, release.action, plan.model, plan.version)
    open_target(config, settings).promote(release)
    try:
        sync_alias(settings, plan.model, plan.version)
    except WindvaneError as exc:
        log.warning("the alias 'champion' was not moved; the reconciler will do it: %s", exc)
    return release


def revert_expired(ledger: Ledger, model: str, *, actor: str = "reconciler") -> Release | None:
    """End a shift that nobody promoted in time: append `revert` to the traffic before it; None if there is none."""
    last = ledger.last(model)
    if last is None or last.until is None or last.until > datetime.now(UTC):
        return None
    reason = f"version {last.version} was not promoted until {last.until:%Y-%m-%d %H:%M:%S} UTC"
    return _revert(ledger, last, actor=actor, reason=reason, evidence={"retryable": True})


def sync_alias(settings: Settings, model: str, version: int) -> None:
    """Point MLflow's alias `champion` at a version.

    Raises:
        ServiceUnavailable: If MLflow does not answer or refuses.
    """
    from windvane.register_model import set_champion_alias

    set_champion_alias(settings, model, version)


def _own_rows(ledger: Ledger, plan: Plan) -> list[Release]:
    """The rows since the plan was made, if all of them belong to it."""
    rows = [row for row in ledger.history(plan.model) if row.epoch > plan.epoch]
    for row in rows:
        if row.evidence.get("plan") != plan.key:
            raise StaleEpoch(
                f"release ledger: the plan for {plan.model} version {plan.version} was made at epoch {plan.epoch}; since then "
                f"epoch {row.epoch} ({row.action} of version {row.version} by {row.actor}) came; this attempt is superseded"
            )
    return rows


def _shift_row(ledger: Ledger, plan: Plan, *, seconds: float, evidence: Mapping[str, Any]) -> Release:
    rows = _own_rows(ledger, plan)
    last = rows[-1] if rows else None
    if last and last.action in ("shift", "promote", "rollback") and (last.until is None or last.until > datetime.now(UTC)):
        return last
    if last and last.action == "shift":
        last = _revert(ledger, last, actor=plan.actor, reason="the attempt before was cut off", evidence={"retryable": True})
    if last and not last.evidence.get("retryable"):
        raise RolloutFailed(
            f"{plan.model} version {plan.version} was tried and given up: {last.reason}; train again, or give its number to insist"
        )
    return ledger.append(
        plan.model,
        expected_epoch=last.epoch if last else plan.epoch,
        action="shift",
        version=plan.version,
        digest=plan.digest,
        traffic={plan.version: 100},
        # time to observe twice over: a task that is killed and retried at once finds its row still valid
        until=datetime.now(UTC) + timedelta(seconds=2 * seconds + 30),
        actor=plan.actor,
        reason=plan.reason,
        evidence=_evidence(plan, evidence),
    )


def _promoted_row(ledger: Ledger, plan: Plan, *, evidence: Mapping[str, Any]) -> Release:
    rows = _own_rows(ledger, plan)
    last = rows[-1] if rows else ledger.last(plan.model) if plan.serves else None
    if last and (plan.serves or last.action in ("promote", "rollback")):
        return last
    if last is None or last.action != "shift":
        found = f"{last.action}: {last.reason}" if last else "no shift"
        raise StaleEpoch(f"release ledger: {plan.model} version {plan.version} has no shift to promote, found {found}; deploy it again")
    action: Action = "rollback" if plan.rollback else "promote"
    return ledger.append(
        plan.model,
        expected_epoch=last.epoch,
        action=action,
        version=plan.version,
        digest=plan.digest,
        traffic={plan.version: 100},
        actor=plan.actor,
        reason=plan.reason,
        evidence=_evidence(plan, evidence),
    )


def _revert(ledger: Ledger, shifted: Release, *, actor: str, reason: str, evidence: Mapping[str, Any]) -> Release:
    settled = next((row for row in reversed(ledger.history(shifted.model)) if row.until is None and row.epoch < shifted.epoch), None)
    return ledger.append(
        shifted.model,
        expected_epoch=shifted.epoch,
        action="revert",
        version=shifted.version,
        digest=shifted.digest,
        traffic=settled.traffic if settled else {},
        actor=actor,
        reason=reason,
        evidence={"plan": shifted.evidence.get("plan"), **evidence},
    )


def _refuse(settings: Settings, plan: Plan, error: RehearsalFailed) -> None:
    ledger = Ledger(settings.database)
    try:
        if _own_rows(ledger, plan):
            return
        last = ledger.last(plan.model)
        if last and last.until:
            log.warning("the refusal is not in the ledger: version %d is being shifted", last.version)
            return
        ledger.append(
            plan.model,
            expected_epoch=plan.epoch,
            action="refuse",
            version=plan.version,
            digest=plan.digest,
            traffic=last.traffic if last else {},
            actor=plan.actor,
            reason=str(error),
            evidence=_evidence(plan, {}),
        )
    except StaleEpoch as stale:
        log.warning("the refusal is not in the ledger: %s", stale)
    finally:
        ledger.close()


def _evidence(plan: Plan, more: Mapping[str, Any]) -> dict[str, Any]:
    return {**more, "plan": plan.key, "override": plan.override}
