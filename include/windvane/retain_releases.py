"""Keeps the bundles and images that a rollback may need, and removes the older ones."""

import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from windvane.config import ModelConfig
from windvane.errors import StorageError
from windvane.ledger import Release, settled_row
from windvane.resolve_release import promoted_versions
from windvane.settings import Settings
from windvane.shared_folder import SharedFolder, list_shared, remove_shared

log = logging.getLogger(__name__)

KEPT_RELEASES = 3
_YOUNG_SECONDS = 86_400.0
_MANIFEST = "bundle.json"


def kept_digests(history: Sequence[Release], *, count: int = KEPT_RELEASES) -> set[str]:
    """The bundles that must stay: of what serves or is on its way, of the last promotions, and of what one can go back to."""
    if not history:
        return set()
    settled = settled_row(history)
    versions = {*history[-1].traffic, *(settled.traffic if settled else ())}
    promoted = [row.digest for row in history if row.action in ("promote", "rollback")]
    held = [row.digest for row in promoted_versions(list(history))]
    return {
        history[-1].digest,
        *(row.digest for row in history if row.version in versions),
        *_last_distinct(promoted, count),
        *_last_distinct(held, count),
    }


def retain_releases(settings: Settings, config: ModelConfig, history: Sequence[Release]) -> list[str]:
    """Remove the bundles and images of a model that nothing needs any more; nothing while a rollout is under way.

    Returns:
        What was removed.

    Raises:
        ServiceUnavailable: If MLflow, which knows the challenger, or the Docker engine does not answer.
        StorageError: If files cannot be removed.
    """
    if not history or history[-1].until:
        return []
    keep = kept_digests(history)
    done = []
    if config.deploy.target == "docker":
        from windvane.build_image import prune_images
        from windvane.connect_docker import docker_engine

        with docker_engine() as client:
            done += [f"{config.model}: removed the image {tag}" for tag in prune_images(client, settings, config.model, keep)]
    from windvane.register_model import CHALLENGER, get_alias

    challenger = get_alias(settings, config.model, CHALLENGER)
    if challenger and challenger[1]:
        keep = {*keep, challenger[1]}
    # somebody may be asked about one that a newer challenger followed
    young = _YOUNG_SECONDS + (config.approval.timeout.total_seconds() if config.approval.required else 0)
    gone = prune_bundles(settings, config.model, keep, young_seconds=young)
    return done + [f"{config.model}: removed the bundle {digest[:12]}" for digest in gone]


def prune_bundles(settings: Settings, model: str, keep: Collection[str], *, young_seconds: float = _YOUNG_SECONDS) -> list[str]:
    """Remove the bundles of a model that are neither kept nor young, with the keys and verdicts beside them.

    Args:
        keep: Digests that stay.
        young_seconds: A bundle that was written within so many seconds stays: it may be on its way to be registered or approved.

    Returns:
        The digests that were removed.

    Raises:
        StorageError: If files cannot be removed.
    """
    if isinstance(settings.bundles, SharedFolder):
        return _prune_shared(settings.bundles, model, keep, young_seconds=young_seconds)
    removed = []
    try:
        for path, training_key in _bundles_of(settings.bundles, model):
            if path.name in keep or time.time() - path.stat().st_mtime < young_seconds:
                continue
            pointer = settings.bundles / "keys" / training_key
            # a training that runs again must not adopt what is about to go
            if training_key and pointer.is_file() and pointer.read_text().strip() == path.name:
                pointer.unlink()
            # out of sight at once; what a crash leaves is swept with what trainings left
            going = path.with_name(f".building-gone-{path.name}-{os.getpid()}")
            path.rename(going)
            shutil.rmtree(going)
            for beside in settings.bundles.glob(f"*/{path.name}.*"):
                beside.unlink()
            removed.append(path.name)
    except OSError as exc:
        raise StorageError(f"{settings.bundles}: old bundles cannot be removed: {exc}; mend permissions") from exc
    return removed


def _prune_shared(root: SharedFolder, model: str, keep: Collection[str], *, young_seconds: float) -> list[str]:
    """The same in an object store; what was cut off while it was published or removed goes too."""
    removed = []
    for bundle in list_shared(root, model):
        if bundle.digest not in keep and (datetime.now(UTC) - bundle.begun).total_seconds() >= young_seconds:
            remove_shared(root, model, bundle)
            removed.append(bundle.digest)
    return removed


def _bundles_of(root: Path, model: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.glob("[0-9a-f]*")):
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
            belongs = manifest["model"] == model
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.debug("%s: is no bundle that can be read, and stays: %s", path, exc)
            continue
        if belongs:
            yield path, str(manifest.get("training_key", ""))


def _last_distinct(digests: Sequence[str], count: int) -> list[str]:
    return list(dict.fromkeys(reversed(digests)))[:count]
