"""The steps of a deployment: package, rehearse, roll out, promote. Each can run twice, or be killed and run again.

A rollout moves traffic in the steps of `deploy.rollout.steps`; each is a row of the ledger, bakes, and is judged. A first version, a
rollback, and a server process, which holds one version, go to 100 at once.

What serves is decided by the release ledger alone. A target (a server process, or containers) brings the endpoint in
line with the newest row; everything else (the MLflow alias, containers, HAProxy's state) is a cache of it.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from windvane.bake_step import Counted, bake_limit, bake_step
from windvane.config import ModelConfig
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable, StaleEpoch, WindvaneError
from windvane.failpoints import failpoint
from windvane.judge_rollout import Judgement
from windvane.ledger import Action, Ledger, Release, settled_row
from windvane.record_answer import is_answer
from windvane.rehearse_candidate import rehearse_candidate
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
    in_steps: bool

    def prepare(self, plan: Plan) -> dict[str, Any]:
        """Make what serves the version, and see that there is an endpoint for it."""

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """Score the golden rows, and replay rows, in the runtime that would serve; raise RehearsalFailed if golden rows differ."""

    def shift(self, release: Release) -> None:
        """Give traffic to the version, keeping what serves now at hand."""

    def observe(self, plan: Plan) -> dict[str, Any]:
        """Wait until the endpoint serves the version; raise RolloutFailed if it does not."""

    def counts(self) -> dict[int, Counted]:
        """What became of the requests to each version; nothing where nobody counts."""

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
    if config.deploy.target == "kubernetes":
        from windvane.kubernetes_target import KubernetesTarget

        return KubernetesTarget(config, settings)
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
    failpoint("rehearse")
    target = open_target(config, settings)
    try:
        if plan.rollback:
            # what served before needs no comparison, and neither MLflow nor the lake may be there
            return target.rehearse(plan)
        seen = rehearse_candidate(config, settings, target, plan, champion=_champion(settings, plan))
    except RehearsalFailed as exc:
        _refuse(settings, plan, exc)
        raise
    log.info("%s version %d behaves in rehearsal: %s", plan.model, plan.version, seen["judgement"]["reason"])
    return seen


def roll_out(config: ModelConfig, settings: Settings, plan: Plan, *, evidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Move the traffic to the version step by step, and watch each; an attempt that was cut off is continued where it was.

    Args:
        evidence: What `rehearse` returned.

    Returns:
        `endpoint`, `epoch` and the judgement of the last step.

    Raises:
        RolloutFailed: If a step was judged badly or not conclusively; traffic went back and the ledger says so.
        StaleEpoch: If something else was released since the plan was made.
    """
    if plan.serves:
        return {}
    target = open_target(config, settings)
    target.prepare(plan)
    failpoint("prepared")
    ledger = Ledger(settings.database)
    try:
        judged: Mapping[str, Any] = evidence or {}
        shares = _shares(config, target, plan, _settled_before(ledger, plan))
        while True:
            release = _shift_row(ledger, plan, shares, seconds=_step_seconds(config, target), evidence=judged)
            failpoint("shift row")
            if release.action != "shift":
                return {"epoch": release.epoch}
            log.info("ledger epoch %d: %s shifts to %s until %s", release.epoch, plan.model, dict(release.traffic), release.until)
            seen = _watch(config, settings, target, ledger, plan, release, evidence=evidence or {})
            if release.traffic.get(plan.version) == 100:
                return seen | {"epoch": release.epoch}
            judged = {**_first_evidence(judged), "step": seen}
            shares = [share for share in shares if share > release.traffic[plan.version]]
            failpoint("step judged")
            _append_shift(ledger, plan, release.epoch, shares[0], seconds=_step_seconds(config, target), evidence=judged)
    finally:
        ledger.close()


def _watch(
    config: ModelConfig, settings: Settings, target: Target, ledger: Ledger, plan: Plan, release: Release, *, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    """Bring one step in line with its row, let it bake, and take it back if it is not good."""
    settled = _settled_before(ledger, plan)
    bakes, seen = target.in_steps and not plan.rollback, dict[str, Any]()
    try:
        before = _counts(target) if bakes else {}
        target.shift(release)
        failpoint("shifted")
        if bakes:
            judgement = bake_step(
                config,
                settings,
                target,
                ledger,
                plan,
                release,
                before=before,
                began=_own_rows(ledger, plan)[0].time,
                champion=settled.serving if settled else None,
                replay=evidence.get("replay") or release.evidence.get("replay"),
            )
            failpoint("baked")
            if judgement.verdict != "advance":
                raise _Judged(
                    judgement, f"{plan.model} version {plan.version} at {release.traffic.get(plan.version)} %: {judgement.reason}"
                )
            seen["judgement"] = judgement.as_json()
        # last, as a version that crashes again and again is noticed sooner by its errors than by its answers
        if release.traffic.get(plan.version) == 100:
            seen |= target.observe(plan)
    except StaleEpoch:
        raise
    except WindvaneError as exc:
        found = {"judgement": exc.judgement.as_json()} if isinstance(exc, _Judged) else {}
        reverted = _revert(ledger, release, actor=plan.actor, reason=str(exc), evidence={"retryable": exc.retryable, **found})
        log.error("ledger epoch %d: reverted: %s", reverted.epoch, exc)
        failpoint("revert row")
        target.revert(reverted)
        raise
    log.info("%s version %d at %s %%: %s", plan.model, plan.version, release.traffic.get(plan.version), seen)
    return seen


def _counts(target: Target) -> dict[int, Counted]:
    try:
        return target.counts()
    except ServiceUnavailable as exc:
        # a model that never served has nothing that counts, and what does not answer is started by the shift and counts from nothing
        log.info("what was counted before is not known: %s", exc)
        return {}


class _Judged(RolloutFailed):
    def __init__(self, judgement: Judgement, message: str) -> None:
        self.judgement = judgement
        super().__init__(message)


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
    failpoint("promote row")
    open_target(config, settings).promote(release)
    failpoint("retired")
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
    """The rows of the plan, if nothing else was released since it was made."""
    return _rows_since(ledger, plan)[0]


def _rows_since(ledger: Ledger, plan: Plan) -> tuple[list[Release], int]:
    """The rows of the plan and the epoch of the newest row; a person's refusal of another version overtakes no plan."""
    rows = [row for row in ledger.history(plan.model) if row.epoch > plan.epoch]
    own = [row for row in rows if not is_answer(row)]
    for row in own:
        if row.evidence.get("plan") != plan.key:
            raise StaleEpoch(
                f"release ledger: the plan for {plan.model} version {plan.version} was made at epoch {plan.epoch}; since then "
                f"epoch {row.epoch} ({row.action} of version {row.version} by {row.actor}) came; this attempt is superseded"
            )
    return own, rows[-1].epoch if rows else plan.epoch


def _champion(settings: Settings, plan: Plan) -> Release | None:
    """The row with which what serves now came to serve."""
    ledger = Ledger(settings.database)
    try:
        settled = _settled_before(ledger, plan)
        if settled is None or settled.serving is None or settled.serving == plan.version:
            return None
        rows = [row for row in ledger.history(plan.model) if row.version == settled.serving]
        return rows[-1] if rows else None
    finally:
        ledger.close()


def _settled_before(ledger: Ledger, plan: Plan) -> Release | None:
    """What served for good when the plan was made."""
    return settled_row([row for row in ledger.history(plan.model) if row.epoch <= plan.epoch])


def _shares(config: ModelConfig, target: Target, plan: Plan, settled: Release | None) -> list[int]:
    champion = settled.serving if settled else None
    if not target.in_steps or plan.rollback or champion in (None, plan.version):
        return [100]
    return list(config.deploy.rollout.steps)


def _step_seconds(config: ModelConfig, target: Target) -> float:
    return target.observe_seconds + (bake_limit(config).total_seconds() if target.in_steps else 0)


def _first_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What each step's row repeats, so that an attempt that goes on has it: the summary of the replay."""
    return {"replay": evidence["replay"]} if evidence.get("replay") else {}


def _shift_row(ledger: Ledger, plan: Plan, shares: list[int], *, seconds: float, evidence: Mapping[str, Any]) -> Release:
    """The row of the step that is under way, or a new one for the first step."""
    rows, epoch = _rows_since(ledger, plan)
    last = rows[-1] if rows else None
    if last and last.action in ("shift", "promote", "rollback") and (last.until is None or last.until > datetime.now(UTC)):
        return last
    if last and last.action == "shift":
        last = _revert(ledger, last, actor=plan.actor, reason="the attempt before was cut off", evidence={"retryable": True})
        epoch = last.epoch
    if last and not last.evidence.get("retryable"):
        raise RolloutFailed(
            f"{plan.model} version {plan.version} was tried and given up: {last.reason}; train again, or give its number to insist"
        )
    return _append_shift(ledger, plan, epoch, shares[0], seconds=seconds, evidence=evidence)


def _append_shift(ledger: Ledger, plan: Plan, epoch: int, share: int, *, seconds: float, evidence: Mapping[str, Any]) -> Release:
    settled = _settled_before(ledger, plan)
    rest = {settled.serving: 100 - share} if share < 100 and settled and settled.serving is not None else {}
    return ledger.append(
        plan.model,
        expected_epoch=epoch,
        action="shift",
        version=plan.version,
        digest=plan.digest,
        traffic={**rest, plan.version: share},
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
    if last is None or last.action != "shift" or last.traffic.get(plan.version) != 100:
        found = f"{last.action}: {last.reason}" if last else "no shift"
        raise StaleEpoch(
            f"release ledger: {plan.model} version {plan.version} has no shift of all traffic to promote, found {found}; deploy it again"
        )
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
    settled = settled_row(ledger.history(shifted.model))
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
        rows, epoch = _rows_since(ledger, plan)
        if rows:
            return
        last = ledger.last(plan.model)
        if last and last.until:
            log.warning("the refusal is not in the ledger: version %d is being shifted", last.version)
            return
        ledger.append(
            plan.model,
            expected_epoch=epoch,
            action="refuse",
            version=plan.version,
            digest=plan.digest,
            traffic=last.traffic if last else {},
            actor=plan.actor,
            reason=str(error),
            evidence=_evidence(plan, error.evidence),
        )
    except StaleEpoch as stale:
        log.warning("the refusal is not in the ledger: %s", stale)
    finally:
        ledger.close()


def _evidence(plan: Plan, more: Mapping[str, Any]) -> dict[str, Any]:
    approved = {"approval": dict(plan.approval)} if plan.approval else {}
    return {**more, "plan": plan.key, "override": plan.override, **approved}
