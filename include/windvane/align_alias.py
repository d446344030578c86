"""Keeps MLflow's alias `champion` on the bundle that serves; MLflow is a cache here, so nothing waits for it."""

import time
from dataclasses import dataclass, field

from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, ServiceUnavailable
from windvane.ledger import Release
from windvane.register_model import CHAMPION, get_alias, register_again, registered_version, set_champion_alias
from windvane.settings import Settings

# with a look every ten seconds an alias is right again within a minute
_PAUSE_SECONDS = 50.0


@dataclass(frozen=True)
class _Seen:
    epoch: int
    at: float
    problem: str | None


@dataclass
class AliasMemory:
    """What was seen last of each model's alias, so that MLflow is asked no more than about once a minute."""

    seen: dict[str, _Seen] = field(default_factory=dict)


def align_alias(settings: Settings, release: Release, digest: str, *, config: ModelConfig | None, memory: AliasMemory) -> list[str]:
    """Point the alias at the version of the bundle that serves; one that was deleted is registered again from its bundle.

    A shift moves no alias: it may be reverted. What went wrong is remembered and said again, without asking MLflow again.

    Args:
        release: The newest row of the ledger.
        digest: The bundle that it says serves most.
        memory: Updated.

    Returns:
        What was done; a line with `warning` where somebody had changed MLflow by hand.

    Raises:
        ServiceUnavailable: If MLflow does not answer, or the alias cannot be set.
    """
    if release.serving is None or release.until:
        return []
    seen = memory.seen.get(release.model)
    if seen and seen.epoch == release.epoch and time.monotonic() - seen.at < _PAUSE_SECONDS:
        if seen.problem:
            raise ServiceUnavailable(seen.problem)
        return []
    was_right = seen is not None and seen.epoch == release.epoch and seen.problem is None
    problem: str | None = "it was not looked at"
    try:
        done = _align(settings, release, digest, config=config, was_right=was_right)
        problem = None
        return done
    except ServiceUnavailable as exc:
        problem = str(exc)
        raise
    finally:
        memory.seen[release.model] = _Seen(release.epoch, time.monotonic(), problem)


def _align(settings: Settings, release: Release, digest: str, *, config: ModelConfig | None, was_right: bool) -> list[str]:
    model, serving = release.model, int(release.serving or 0)
    found = get_alias(settings, model, CHAMPION)
    if found is not None and found[1] == digest:
        return []
    done = []
    version = registered_version(settings, model, digest, version=serving)
    if version is None:
        version = _register_again(settings, model, digest, serving=serving, config=config)
        done.append(
            f"{model}: warning: version {serving}, which serves, is not in MLflow any more; it serves on from its bundle, "
            f"which was registered again as version {version}"
        )
    set_champion_alias(settings, model, version)
    before = f"version {found[0]}" if found else "nothing"
    by_hand = "warning: somebody changed the alias in MLflow: " if was_right else ""
    return [*done, f"{model}: {by_hand}moved the alias '{CHAMPION}' from {before} to version {version}"]


def _register_again(settings: Settings, model: str, digest: str, *, serving: int, config: ModelConfig | None) -> int:
    where = f"version {serving}, which serves, is not in MLflow any more; it serves on from its bundle"
    try:
        bundle = open_bundle(settings.bundles, digest)
    except BundleError as exc:
        raise ServiceUnavailable(f"{where}, but cannot be registered again: {exc}") from exc
    return register_again(settings, bundle, version=serving, description=config.description if config else "")
