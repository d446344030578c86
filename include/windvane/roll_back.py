"""Brings an earlier version back in one call: resolved, rehearsed, shifted and promoted, without Airflow, MLflow or the lake."""

import time
from collections.abc import Callable
from dataclasses import replace

from windvane.config import ModelConfig
from windvane.deployment import open_target, package, promote, rehearse, resolve_release, roll_out
from windvane.endpoint_url import endpoint_url, public_url
from windvane.errors import ConfigError, RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.ledger import Ledger, Release
from windvane.process_target import fetch_model
from windvane.resolve_release import Plan
from windvane.settings import Settings

_SERVES_SECONDS = 15.0
_POLL_SECONDS = 0.1
_IN_A_ROW = 5

Say = Callable[[str], None]


def roll_back(
    config: ModelConfig, settings: Settings, to: int | None = None, *, actor: str, reason: str | None = None, say: Say = print
) -> Release:
    """Serve an earlier version again; what it returns is served.

    Args:
        to: A version that served before; None for the one before the champion, or for the champion while a rollout is under way.
        actor: Who asks.
        reason: Why, for the ledger.
        say: Takes one line per step.

    Returns:
        The ledger's row.

    Raises:
        ConfigError: If there is no such version, or it never served.
        BundleError: If its bytes are not those that served; the message offers the next older version.
        RehearsalFailed: If it does not predict its golden rows any more; what serves stays.
        RolloutFailed: If the endpoint does not come to serve it.
        StaleEpoch: If somebody else released something meanwhile.
        ServiceUnavailable: If the endpoint or the Docker engine does not answer.
    """
    _check_served(settings, config.model, to)
    plan = resolve_release(config, settings, "previous" if to is None else to, actor=actor)
    if reason:
        plan = replace(plan, reason=reason)
    if plan.serves:
        say(f"version {plan.version} serves already by the ledger")
    else:
        say(f"version {plan.version} (bundle {plan.digest[:12]}): every byte is as it was when it served")
        package(config, settings, plan)
        seen = rehearse(config, settings, plan)
        say(f"rehearsed: {seen.get('rows', '?')} golden rows, largest difference {seen.get('max_difference', '?')}")
        evidence = {"rehearsal": dict(seen)}
        roll_out(config, settings, plan, evidence=evidence)
        say("the traffic is on it")
    release = promote(config, settings, plan, evidence={})
    say(f"ledger epoch {release.epoch}: {release.action} of version {release.version}")
    _wait_until_served(config, settings, plan)
    say(f"{public_url(config)}/invocations serves version {plan.version}")
    return release


def _check_served(settings: Settings, model: str, to: int | None) -> None:
    """A version that never served is deployed, with its gates and its rollout, and not rolled back to."""
    if to is None:
        return
    ledger = Ledger(settings.database)
    try:
        served = sorted({row.version for row in ledger.history(model) if row.action in ("promote", "rollback")})
    finally:
        ledger.close()
    if to not in served:
        known = ", ".join(map(str, served)) or "none"
        raise ConfigError(
            [f"{model}: version {to} never served; those that did: {known}; to deploy it, trigger {model}__deploy with version: {to}"]
        )


def _wait_until_served(config: ModelConfig, settings: Settings, plan: Plan) -> None:
    """Ask the endpoint until several answers in a row come from the version, after one more push if need be."""
    if config.deploy.target == "kubernetes":
        # the gateway's host name may mean nothing here; the target asks the cluster
        open_target(config, settings).observe(plan)
        return
    url, give_up = endpoint_url(config, settings), time.monotonic() + _SERVES_SECONDS
    in_a_row, problem = 0, ""
    while in_a_row < _IN_A_ROW * config.deploy.replicas:
        try:
            serving = fetch_model(url)["serving"] or {}
            right = (serving.get("version"), serving.get("digest")) == (plan.version, plan.digest)
            problem = "" if right else f"it serves version {serving.get('version')}"
        except ServiceUnavailable as exc:
            problem = str(exc)
        in_a_row = 0 if problem else in_a_row + 1
        if problem:
            if time.monotonic() > give_up:
                raise RolloutFailed(
                    f"{plan.model} version {plan.version}: the ledger says that it serves, {url} does not serve it: {problem}; "
                    "run `windvane reconcile`, then `windvane status`"
                )
            _push(config, settings)
            time.sleep(_POLL_SECONDS)


def _push(config: ModelConfig, settings: Settings) -> None:
    ledger = Ledger(settings.database)
    try:
        last = ledger.last(config.model)
    finally:
        ledger.close()
    if last is None or last.until:
        raise StaleEpoch(f"release ledger: {config.model}: something else is being released; run `windvane ledger {config.model}`")
    open_target(config, settings).align(last)
