"""Decides which version a deployment is about, and whether it may serve at all."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from windvane.config import ModelConfig
from windvane.errors import BundleError, ConfigError, StaleEpoch
from windvane.ledger import Ledger, Release, settled_row
from windvane.settings import Settings

_BACK = "-back"
_MAX_WHY = 800

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One deployment, fixed before anything happens; small enough to hand from task to task.

    Attributes:
        rollback: Whether the version served before: nothing is asked of MLflow, no approval is needed.
        epoch: The ledger's last row on which the plan is based; if another comes in between, the plan is superseded.
        reason: Why this version, for people.
        actor: Who asked for it.
        override: Whether a person chose a version whose gates did not pass.
        serves: Whether the version serves already, so that nothing is left to do.
        approval: Who approved it, when and why; None where nobody had to.
    """

    model: str
    version: int
    digest: str
    rollback: bool
    epoch: int
    reason: str
    actor: str
    override: bool = False
    serves: bool = False
    approval: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def key(self) -> str:
        """Marks the ledger rows of this plan, so that a retry knows its own."""
        return f"{self.digest[:16]}@{self.epoch}{_BACK if self.rollback else ''}"

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        """Read what `as_json` wrote."""
        return cls(**value)


class Candidate(NamedTuple):
    """A version that is known to be meant, such as the one that a person approved: nobody else is asked for it."""

    version: int
    digest: str


def resolve_release(
    config: ModelConfig, settings: Settings, requested: int | str | None, *, candidate: Candidate | None = None, actor: str = "windvane"
) -> Plan:
    """Find the version to deploy; a rollback ends the rollout that is under way, if there is one.

    Args:
        requested: A version number, `previous` for a rollback, or None for the challenger that passed its gates.
        candidate: The version and bundle that this is about unless it is a rollback; None: MLflow says which.
        actor: Who asks.

    Raises:
        ConfigError: If there is no such version, or no earlier one.
        BundleError: If the bundle is missing or damaged, or its gates did not pass and nobody chose it by number. For a rollback
            the message offers the next older version whose bundle is whole.
        StaleEpoch: If a person froze the model and this is not a rollback.
        ServiceUnavailable: If a version that never served is asked for and MLflow does not answer.
    """
    ledger = Ledger(settings.database)
    try:
        plan = _resolve(ledger, config.model, settings, _parse(requested), candidate, actor=actor)
        if plan.rollback:
            return _end_rollout(ledger, plan)
        if ledger.is_frozen(config.model) and not plan.serves:
            raise StaleEpoch(
                f"{config.model} is frozen: version {plan.version} is not deployed; run `windvane unfreeze {config.model}`, or roll back"
            )
        return plan
    finally:
        ledger.close()


def is_rollback(settings: Settings, model: str, requested: int | str | None) -> bool:
    """Whether what is asked for served before; changes nothing.

    Raises:
        ConfigError: If it is neither a number nor `previous` nor nothing.
    """
    wanted = _parse(requested)
    if not isinstance(wanted, int):
        return wanted == "previous"
    ledger = Ledger(settings.database)
    try:
        return _served_before(ledger.history(model), wanted) is not None
    finally:
        ledger.close()


def promoted_versions(history: list[Release]) -> list[Release]:
    """The versions that were promoted and not rolled back since, oldest first; the last is the champion."""
    stack: list[Release] = []
    for row in history:
        if row.action == "promote":
            stack.append(row)
        elif row.action == "rollback":
            # rolling back twice goes two versions back, never forward to the bad one
            at = next((n for n, held in enumerate(stack) if held.version == row.version), len(stack))
            stack = [*stack[:at], row]
    return stack


def read_verdict(settings: Settings, digest: str) -> Mapping[str, Any] | None:
    """What the gates said about a bundle, or None."""
    path = settings.bundles / "verdicts" / f"{digest}.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise BundleError(f"{path}: the verdict cannot be read ({exc}); train again to gate the bundle again") from exc
    return value if isinstance(value, dict) else None


def _parse(requested: int | str | None) -> int | str | None:
    if requested is None or requested in ("", "previous") or isinstance(requested, int):
        return requested or None
    if requested.isdecimal():
        return int(requested)
    raise ConfigError([f"params: version: got {requested!r}, allowed is a version number, 'previous', or nothing for the challenger"])


def _resolve(
    ledger: Ledger, model: str, settings: Settings, requested: int | str | None, candidate: Candidate | None, *, actor: str
) -> Plan:
    history = ledger.history(model)
    last = history[-1] if history else None
    if requested == "previous":
        return _previous(history, model, settings, actor=actor)
    if isinstance(requested, int) and (served := _served_before(history, requested)):
        _check_rollback(history, settings, served)
        return _plan(last, served.version, served.digest, rollback=True, reason=f"version {requested} was asked for", actor=actor)
    version, digest = candidate or _registered(settings, model, requested)
    verdict = read_verdict(settings, digest)
    passed = bool(verdict and verdict.get("passed") is True)
    if last and _settled(last) and last.serving is not None and ledger.digest_of(model, last.serving) == digest:
        return _plan(last, last.serving, digest, rollback=False, reason=f"version {last.serving} serves already", actor=actor)
    if not passed and requested is None:
        raise BundleError(
            f"{model} version {version} (bundle {digest[:12]}) has no passed verdict, so it is not deployed; "
            "see the gate task of its training, or give its number as param 'version' to override"
        )
    _check_bundle(settings, digest, of=model)
    reason = f"version {version} was asked for" if requested else f"challenger version {version} passed its gates"
    if not passed:
        reason += f"; {_why_not(verdict)}"
    return _plan(last, version, digest, rollback=False, reason=reason, actor=actor, override=not passed, model=model)


def _why_not(verdict: Mapping[str, Any] | None) -> str:
    """What the gates said of a version that they did not pass."""
    if verdict is None:
        return "its gates were never run"
    gates = verdict.get("gates")
    refused = [gate for gate in gates if isinstance(gate, dict) and gate.get("passed") is not True] if isinstance(gates, list) else []
    told = "; ".join(f"{gate.get('name')}: {gate.get('reason')}" for gate in refused)
    return f"its gates refused it: {told or 'the verdict names none that passed'}"[:_MAX_WHY]


def _previous(history: list[Release], model: str, settings: Settings, *, actor: str) -> Plan:
    last = history[-1] if history else None
    stack = promoted_versions(history)
    # during a rollout the champion itself is what to go back to, but not during a rollback that was cut off
    older = stack if last and not _settled(last) and not _planned(last).endswith(_BACK) else stack[:-1]
    if not older:
        raise ConfigError([f"{model}: there is no earlier version to roll back to; give a version number as param 'version'"])
    row = older[-1]
    _check_rollback(history, settings, row)
    left = last.version if last and older is stack else stack[-1].version
    return _plan(last, row.version, row.digest, rollback=True, reason=f"roll back from version {left} to {row.version}", actor=actor)


def _end_rollout(ledger: Ledger, plan: Plan) -> Plan:
    """Give the traffic of an unfinished rollout back in the ledger, which supersedes it before its next step."""
    while True:
        last = ledger.last(plan.model)
        if last is None or last.evidence.get("plan") == plan.key:
            return plan
        if _settled(last):
            return replace(plan, epoch=last.epoch)
        try:
            before = settled_row(ledger.history(plan.model))
            reverted = ledger.append(
                plan.model,
                expected_epoch=last.epoch,
                action="revert",
                version=last.version,
                digest=last.digest,
                traffic=before.traffic if before else {},
                actor=plan.actor,
                reason=f"a rollback to version {plan.version} supersedes the rollout of version {last.version}",
            )
        except StaleEpoch as exc:
            log.info("the rollout went on while it was ended, trying again: %s", exc)
            continue
        return replace(plan, epoch=reverted.epoch)


def _check_rollback(history: list[Release], settings: Settings, row: Release) -> None:
    """Refuse bytes that are not those that served, and offer the next older version whose bytes are."""
    damage = _damage(settings, row.digest)
    if damage is None:
        return
    offer = "no older version is whole: deploy a new one"
    for older in reversed(_older_than(history, row)):
        if _damage(settings, older.digest) is None:
            offer = (
                f"the next older version that is whole is {older.version}: run `windvane rollback {row.model} --to {older.version}`, "
                f"or trigger {row.model}__deploy with version: {older.version}"
            )
            break
    raise BundleError(f"{row.model}: version {row.version} cannot be rolled back to: {damage}; nothing was changed; {offer}")


def _older_than(history: list[Release], row: Release) -> list[Release]:
    """The versions promoted before a version was, oldest first; none that was given up by a rollback, nor what serves now."""
    since: dict[int, int] = {}
    for promoted in history:
        if promoted.action == "promote":
            since.setdefault(promoted.version, promoted.epoch)
    now = history[-1].serving if _settled(history[-1]) else None
    before = since.get(row.version, row.epoch)
    return [held for held in promoted_versions(history) if held.version != now and since.get(held.version, held.epoch) < before]


def _damage(settings: Settings, digest: str) -> str | None:
    try:
        _check_bundle(settings, digest)
    except BundleError as exc:
        return str(exc)
    return None


def _plan(
    last: Release | None, version: int, digest: str, *, rollback: bool, reason: str, actor: str, override: bool = False, model: str = ""
) -> Plan:
    serves = bool(last and _settled(last) and last.serving == version)
    epoch = last.epoch if last else 0
    if last and not _settled(last) and last.version == version:
        epoch = _begun_at(last, digest, rollback=rollback, otherwise=epoch)
    return Plan(
        model=last.model if last else model,
        version=version,
        digest=digest,
        rollback=rollback and not serves,
        epoch=epoch,
        reason=reason,
        actor=actor,
        override=override,
        serves=serves,
    )


def _begun_at(row: Release, digest: str, *, rollback: bool, otherwise: int) -> int:
    """The epoch on which the plan of an unfinished row was based, so that an attempt that was cut off is continued."""
    bundle, _, rest = _planned(row).partition("@")
    epoch = rest.removesuffix(_BACK)
    return int(epoch) if bundle == digest[:16] and epoch.isdecimal() and rollback == rest.endswith(_BACK) else otherwise


def _planned(row: Release) -> str:
    """The key of the plan to which a row belongs."""
    return str(row.evidence.get("plan", ""))


def _settled(row: Release) -> bool:
    """Whether the row says what should serve for good; a shift does not, also when nobody has reverted it yet."""
    return row.until is None


def _served_before(history: list[Release], version: int) -> Release | None:
    return next((row for row in reversed(history) if row.version == version and row.action in ("promote", "rollback")), None)


def _check_bundle(settings: Settings, digest: str, *, of: str | None = None) -> None:
    from windvane.bundle import open_bundle

    found = open_bundle(settings.bundles, digest).manifest["model"]
    if of is not None and found != of:
        raise BundleError(f"bundle {digest[:12]} is of the model {found}, not of {of}; nothing is deployed")


def _registered(settings: Settings, model: str, version: int | str | None) -> tuple[int, str]:
    from mlflow.exceptions import MlflowException

    from windvane.mlflow_client import connect, naming_mlflow
    from windvane.track_training import BUNDLE_TAG

    client = connect(settings)
    with naming_mlflow(settings):
        try:
            found = client.get_model_version(model, str(version)) if version else client.get_model_version_by_alias(model, "challenger")
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            what = f"version {version}" if version else "version with the alias 'challenger'"
            raise ConfigError([f"{model}: MLflow at {settings.mlflow_uri} has no {what}; train one first ({model}__train)"]) from exc
    digest = found.tags.get(BUNDLE_TAG)
    if not digest:
        raise BundleError(
            f"{model} version {found.version} in MLflow has no tag {BUNDLE_TAG}; only versions that Windvane registered are deployed"
        )
    return int(found.version), str(digest)
