"""Rehearses a candidate beside the champion: golden rows, then the same replayed rows for both, judged before any traffic moves."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, RehearsalFailed
from windvane.judge_rollout import judge_rehearsal, summarize_replay
from windvane.lake import Lake
from windvane.ledger import Release
from windvane.replay_requests import gather_replay, write_replay
from windvane.resolve_release import Plan
from windvane.settings import Settings

if TYPE_CHECKING:
    from windvane.bundle import Bundle

log = logging.getLogger(__name__)


class Rehearsing(Protocol):
    """What runs a rehearsal: a target."""

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """The JSON of `windvane.scoring.rehearse`."""


def rehearse_candidate(
    config: ModelConfig, settings: Settings, target: Rehearsing, plan: Plan, *, champion: Release | None
) -> dict[str, Any]:
    """Rehearse a candidate, and the champion with the same rows, and judge.

    Args:
        champion: The row that says what serves for good; None for a first version.

    Returns:
        `rehearsal`: what the candidate's said, without its scores; `judgement`; `replay`: the summary that the bake needs.

    Raises:
        RehearsalFailed: If the candidate misbehaved, or nothing could be concluded; the message names the checks.
        ServiceUnavailable: If the rehearsal could not be run.
    """
    candidate = open_bundle(settings.bundles, plan.digest)
    with tempfile.TemporaryDirectory(prefix="replay-", dir=_scratch(settings)) as folder:
        # the user of a container reads the file by its mount only
        path = Path(folder) / "rows.arrow"
        replay = gather_replay(
            config,
            settings,
            Lake(settings.lake),
            champion=_bundle_of(settings, champion),
            candidate=candidate,
            rows=config.deploy.rollout.shadow,
        )
        write_replay(path, replay)
        log.info("%s: replaying %d earlier requests and %d held-out rows", plan.model, replay.logged, replay.held_out)
        ours = target.rehearse(plan, path)
        theirs = _rehearse_champion(target, plan, champion, path)
    judgement = judge_rehearsal(ours, theirs, outcomes=replay.outcomes, held_out=replay.held_out, config=config)
    for check in judgement.checks:
        log.info("%s version %d: %-16s %-12s %s", plan.model, plan.version, check.name, check.verdict, check.reason)
    evidence = {
        "rehearsal": without_scores(ours),
        "judgement": judgement.as_json(),
        "replay": summarize_replay(ours, theirs, held_out=replay.held_out, config=config),
    }
    if judgement.verdict != "advance":
        raise RehearsalFailed(f"{plan.model} version {plan.version} failed its rehearsal: {judgement.reason}", evidence=evidence)
    return evidence


def without_scores(rehearsal: Mapping[str, Any]) -> dict[str, Any]:
    """What a rehearsal said, in a few lines."""
    kept = {name: value for name, value in rehearsal.items() if name != "replay"}
    replayed = rehearsal.get("replay")
    return kept | ({"replayed": {k: v for k, v in replayed.items() if k not in ("scores", "classes")}} if replayed else {})


def _rehearse_champion(target: Rehearsing, plan: Plan, champion: Release | None, path: Path) -> dict[str, Any] | None:
    if champion is None:
        return None
    try:
        return target.rehearse(replace(plan, version=champion.version, digest=champion.digest), path)
    except (RehearsalFailed, BundleError) as exc:
        log.error("%s: the champion, version %d, cannot be rehearsed: %s", plan.model, champion.version, exc)
        return {"ok": False, "error": str(exc)}


def _bundle_of(settings: Settings, champion: Release | None) -> "Bundle | None":
    try:
        return open_bundle(settings.bundles, champion.digest) if champion else None
    except BundleError as exc:
        log.error("the champion's bundle: %s", exc)
        return None


def _scratch(settings: Settings) -> Path:
    settings.scratch.mkdir(parents=True, exist_ok=True)
    return settings.scratch
