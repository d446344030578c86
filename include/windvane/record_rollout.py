"""Keeps what a rollout does now where people look: in the catalog. A rollout does not depend on it."""

import logging
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from windvane.catalog import Catalog
from windvane.config import ModelConfig
from windvane.judge_rollout import Judgement, LiveFigures
from windvane.ledger import Release
from windvane.settings import Settings

log = logging.getLogger(__name__)

# a step is watched every second: it must not wait long for whoever else writes to the database
_PATIENCE_SECONDS = 1.0


class RolloutRecord:
    """Replaces the record of a model's rollout, as often as its step is looked at.

    Args:
        release: The row that began the step.
        champion: The version that served before; None for a first version.
        began: When the rollout began.
        bake_seconds: For how long the step bakes.
        limit_seconds: For how long it may bake where its figures are not conclusive.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: Settings,
        release: Release,
        *,
        champion: int | None,
        began: datetime,
        bake_seconds: float,
        limit_seconds: float,
    ) -> None:
        percent = release.traffic.get(release.version, 0)
        # a first version goes to all traffic at once
        steps = [100] if champion is None else list(config.deploy.rollout.steps)
        self._release = release
        self._fixed = {
            "epoch": release.epoch,
            "version": release.version,
            "champion": champion,
            "percent": percent,
            "step": steps.index(percent) + 1 if percent in steps else None,
            "steps": steps,
            "began": release.time,
            "rollout_began": began,
            "bake_seconds": bake_seconds,
            "limit_seconds": limit_seconds,
        }
        self._database = settings.database
        self._failed = False

    def write(self, *, elapsed_seconds: float, figures: Mapping[int, LiveFigures], judgement: Judgement) -> None:
        """Record one look; where that fails, the log says so once, and the rollout goes on."""
        shown = {*figures, *self._release.traffic}
        told = {
            **self._fixed,
            "elapsed_seconds": round(elapsed_seconds, 1),
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "updated_at": datetime.now(UTC),
            "figures": {
                str(version): _told(figures.get(version, LiveFigures.none()), self._release.traffic.get(version, 0))
                for version in sorted(shown)
            },
        }
        try:
            with closing(Catalog(self._database, patience_seconds=_PATIENCE_SECONDS)) as catalog:
                catalog.record_rollout(self._release.model, told)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with the record, traffic is under way
            if not self._failed:
                log.warning("%s: the rollout goes on, but its figures are not recorded: %s", self._release.model, exc)
            self._failed = True


def _told(found: LiveFigures, percent: int) -> dict[str, Any]:
    return {
        "percent": percent,
        "requests": found.requests,
        "failed": found.server_errors,
        "refused": found.refused,
        "error_rate": found.server_errors / found.requests if found.requests else None,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
    }
