"""Watches one step of a rollout while it bakes: live figures every second, a verdict at its end, sooner if it goes wrong."""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from windvane.config import ModelConfig
from windvane.errors import RehearsalFailed, StaleEpoch
from windvane.judge_rollout import Check, Judgement, LiveFigures, Rescored, judge_step
from windvane.lake import Lake
from windvane.ledger import Ledger, Release
from windvane.read_traffic import TrafficReader, scored_since
from windvane.record_rollout import RolloutRecord
from windvane.replay_requests import write_replay
from windvane.resolve_release import Plan
from windvane.settings import Settings

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_DOWN_SECONDS = 5.0
# requests that must wait before silence means anything
_FEWEST_WAITING = 3
_EARLIER = timedelta(seconds=60)
# a look in the middle of a bake is one of many: only what cannot be chance ends a bake early
_URGENT = ("errors", "refused inputs", "latency")
_FEWEST_RESCORED = 30


@dataclass(frozen=True)
class Counted:
    """What stands in front of the service counted for one version.

    Attributes:
        requests: Requests that were sent to it.
        server_errors: Those that it answered with a 5xx, or not at all.
        refused: Those that it answered with a 4xx.
        down: Whether it fails its health checks now.
        waiting: Requests that wait for its answer now.
    """

    requests: int = 0
    server_errors: int = 0
    refused: int = 0
    down: bool = False
    waiting: int = 0

    def since(self, before: "Counted") -> "Counted":
        """What was added; counters that began anew count from nothing."""
        if self.requests < before.requests:
            return self
        return Counted(
            self.requests - before.requests,
            max(self.server_errors - before.server_errors, 0),
            max(self.refused - before.refused, 0),
            self.down,
            self.waiting,
        )


class Counting(Protocol):
    """What counts requests and can rehearse: the Docker target."""

    def counts(self) -> dict[int, Counted]:
        """The counters of each version."""

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """The JSON of `windvane.scoring.rehearse`."""


class Silence:
    """Notices a version that answers nothing: what hangs has no errors until what stands in front of it gives the requests up."""

    def __init__(self) -> None:
        self._answered, self._since = -1, 0.0

    def look(self, counted: Counted, *, now: float) -> float:
        """For how many seconds it has answered nothing while requests waited."""
        if counted.requests != self._answered or counted.waiting < _FEWEST_WAITING:
            self._answered, self._since = counted.requests, now
        return now - self._since


def bake_limit(config: ModelConfig) -> timedelta:
    """How long a step may bake when its figures are not conclusive."""
    return 3 * config.deploy.rollout.bake + timedelta(seconds=30)


def bake_step(
    config: ModelConfig,
    settings: Settings,
    target: Counting,
    ledger: Ledger,
    plan: Plan,
    release: Release,
    *,
    before: Mapping[int, Counted],
    began: datetime,
    champion: int | None,
    replay: Mapping[str, Any] | None,
) -> Judgement:
    """Watch a step from now on until it is judged; the traffic has moved.

    Args:
        release: The row that began the step.
        before: What `target.counts` said before the traffic moved, so that the first requests count, too.
        began: When the rollout began.
        champion: The version that served before; None for a first version. Where it has no traffic beside the candidate, what it did
            shortly before and in the earlier steps is compared.
        replay: What `rehearse_candidate` returned as `replay`.

    Returns:
        `advance` or `revert`; `inconclusive` if the limit passed.

    Raises:
        StaleEpoch: If something else was released meanwhile.
    """
    bake, limit = config.deploy.rollout.bake.total_seconds(), bake_limit(config).total_seconds()
    lake = Lake(settings.lake)
    reader = TrafficReader(config, settings, lake, since=release.time)
    earlier = LiveFigures.none()
    if champion is not None and champion not in release.traffic:
        earlier = scored_since(config, settings, lake, since=began - _EARLIER).get(champion, earlier)
    # not from the row's time on: a container may take longer to come up than a bake
    since = time.monotonic()
    down_since: float | None = None
    silence = Silence()
    record = RolloutRecord(config, settings, release, champion=champion, began=began, bake_seconds=bake, limit_seconds=limit)
    while True:
        elapsed = time.monotonic() - since
        last = ledger.last(plan.model)
        if last is None or last.epoch != release.epoch:
            raise StaleEpoch(f"release ledger: {plan.model}: epoch {release.epoch} is not the newest any more; this attempt is superseded")
        counted = {version: found.since(before.get(version, Counted())) for version, found in target.counts().items()}
        logged = reader.update()
        figures = {version: _join(logged.get(version), counted.get(version)) for version in {*logged, *counted, plan.version}}
        beside = None if champion is None else figures.get(champion, earlier) if champion in release.traffic else earlier
        judgement = judge_step(
            candidate=figures[plan.version],
            champion=beside,
            replay=replay,
            min_requests=config.deploy.rollout.min_requests,
            config=config,
        )
        _show(plan, release, elapsed, bake, figures, judgement)
        record.write(elapsed_seconds=elapsed, figures=figures, judgement=judgement)
        if counted.get(plan.version, Counted()).down:
            down_since = time.monotonic() if down_since is None else down_since
            if time.monotonic() - down_since > _DOWN_SECONDS:
                return _reverted("health", f"it has failed its health checks for {_DOWN_SECONDS:.0f} s")
        else:
            down_since = None
        own = counted.get(plan.version, Counted())
        silent_seconds = silence.look(own, now=time.monotonic())
        if silent_seconds > _DOWN_SECONDS:
            return _reverted("health", f"it has answered nothing for {silent_seconds:.0f} s, while {own.waiting} requests wait")
        urgent = [check for check in judgement.checks if check.verdict == "revert" and check.name in _URGENT]
        if urgent or (judgement.verdict == "revert" and elapsed >= bake):
            return judgement
        # what waits for an answer is no evidence yet, and what is down has had few requests
        if elapsed >= bake and judgement.verdict == "advance" and not silent_seconds and down_since is None:
            return _judge_again(config, settings, target, plan, reader, figures, beside, replay)
        if elapsed >= limit:
            return judgement if judgement.verdict != "advance" else _reverted("health", "again and again it is down or lets requests wait")
        time.sleep(_LOOK_SECONDS)


def _judge_again(
    config: ModelConfig,
    settings: Settings,
    target: Counting,
    plan: Plan,
    reader: TrafficReader,
    figures: Mapping[int, LiveFigures],
    beside: LiveFigures | None,
    replay: Mapping[str, Any] | None,
) -> Judgement:
    """Let the candidate score its newest live rows once more, away from the traffic: the answers must be the same."""
    rows, live = reader.sample(plan.version)
    rescored = None
    if len(live) >= _FEWEST_RESCORED:
        settings.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="rescore-", dir=settings.scratch) as folder:
            path = Path(folder) / "rows.arrow"
            write_replay(path, rows)
            try:
                again = target.rehearse(plan, path)
            except RehearsalFailed as exc:
                return _reverted("live answers", f"its live rows could not be scored again: {exc}")
        rescored = Rescored(live, again, None)
    return judge_step(
        candidate=figures[plan.version],
        champion=beside,
        replay=replay,
        min_requests=config.deploy.rollout.min_requests,
        config=config,
        rescored=rescored,
    )


def _reverted(name: str, reason: str) -> Judgement:
    return Judgement("revert", (Check(name, "revert", reason),))


def _join(logged: LiveFigures | None, counted: Counted | None) -> LiveFigures:
    """The request log knows scores and times, what stands in front of the service knows who got no answer."""
    figures, found = logged or LiveFigures.none(), counted or Counted()
    return replace(
        figures,
        requests=max(figures.requests, found.requests) if found.requests else figures.requests + found.server_errors + found.refused,
        server_errors=found.server_errors,
        refused=found.refused,
    )


def _show(plan: Plan, release: Release, elapsed: float, bake: float, figures: Mapping[int, LiveFigures], judgement: Judgement) -> None:
    shares = ", ".join(
        f"v{version} {release.traffic.get(version, 0)} %: {found.requests} requests, {found.server_errors} failed, "
        f"{found.refused} refused, p99 {'-' if found.p99_ms is None else f'{found.p99_ms:.1f} ms'}"
        for version, found in sorted(figures.items())
    )
    log.info("%s epoch %d: %3.0f of %.0f s | %s | %s", plan.model, release.epoch, elapsed, bake, shares, judgement.verdict)
