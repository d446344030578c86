"""Bundles that several hosts share through an object store: published there, fetched into a directory of each host.

A bundle never changes and its name is its digest, so what a host has once fetched stays right. Beside the bundles lie:

<bundles>/keys/<training key>          the digest that was first made from that training key
<bundles>/models/<model>/<digest>      the training key; written before the bundle, so that also one that was cut off is found
"""

import contextlib
import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from windvane.errors import BundleError, StorageError
from windvane.object_path import ObjectPath
from windvane.read_manifest import FILES, MANIFEST, MAX_MANIFEST_BYTES, OPTIONAL_FILES, read_manifest

if TYPE_CHECKING:
    from windvane.bundle import Bundle

log = logging.getLogger(__name__)

_ATTEMPTS = 10
_UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class SharedFolder:
    """An object store that holds bundles, with a directory of this host that keeps those that were used here."""

    place: ObjectPath
    cache: Path

    def __truediv__(self, name: str) -> ObjectPath:
        return self.place / name

    def __str__(self) -> str:
        return str(self.place)


BundleRoot = Path | SharedFolder


@dataclass(frozen=True)
class Shared:
    """A bundle in an object store, whole or cut off.

    Attributes:
        begun: When it began to be published.
    """

    digest: str
    training_key: str
    begun: datetime


def open_shared(root: SharedFolder, digest: str) -> "Bundle":
    """Open this host's copy of a bundle, fetched unless it is there whole.

    Raises:
        BundleError: If there is no such bundle, or it was changed.
        StorageError: If the store or this host's disk fails.
    """
    from windvane.bundle import open_local

    try:
        return open_local(_fetched(root, digest), digest)
    except BundleError as exc:
        if not (root.cache / digest).exists():
            raise
        log.warning("%s; this copy is fetched again", exc)
        forget_bundle(root, digest)
        return open_local(_fetched(root, digest), digest)


def _fetched(root: SharedFolder, digest: str) -> Path:
    from windvane.bundle import building_directory, publish

    path = root.cache / digest
    with contextlib.suppress(FileNotFoundError):
        # what is used stays
        os.utime(path)
        return path
    began = time.monotonic()
    with building_directory(root.cache) as building:
        manifest = building / MANIFEST
        try:
            manifest.write_bytes((root / digest / MANIFEST).read_bytes(most=MAX_MANIFEST_BYTES))
        except FileNotFoundError as exc:
            raise BundleError(f"{root / digest}: there is no such bundle; restore it or train again") from exc
        for name, expected in read_manifest(manifest, digest)["files"].items():
            _fetch(root / digest / name, building / name, expected)
        publish(building, path)
    log.info("bundle %s: fetched from %s in %.2f s", digest[:12], root, time.monotonic() - began)
    _forget_unused(root.cache)
    return path


def forget_bundle(root: SharedFolder, digest: str) -> None:
    """Remove this host's copy of a bundle."""
    gone = root.cache / f".building-gone-{digest}-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.suppress(FileNotFoundError):
        (root.cache / digest).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def share_bundle(root: SharedFolder, bundle: "Bundle") -> str:
    """Publish a bundle of this host and claim its training key; returns the digest of the bundle that has the key.

    Raises:
        StorageError: If the store fails; what was published so far is no bundle yet.
    """
    from windvane.bundle import find_bundle

    digest = bundle.digest
    key = bundle.training_key
    if not (root / digest / MANIFEST).is_file():
        _marker(root, str(bundle.manifest["model"]), digest).write_bytes(key.encode())
        # the manifest comes last: what has none is no bundle
        for name in (*bundle.manifest["files"], MANIFEST):
            (root / digest / name).upload(bundle.path / name)
    pointer = root / "keys" / key
    for _ in range(_ATTEMPTS):
        if pointer.create(digest.encode()):
            return digest
        try:
            mark = pointer.read_tagged()[1]
        except FileNotFoundError:
            continue
        winner = find_bundle(root, key)
        if winner is not None:
            if winner.digest != digest:
                remove_shared(root, str(bundle.manifest["model"]), Shared(digest, key, datetime.now(UTC)))
            return winner.digest
        if pointer.replace(digest.encode(), mark):
            return digest
    raise StorageError(f"{pointer}: {_ATTEMPTS} attempts to claim the training key lost against other writers; run again")


def list_shared(root: SharedFolder, model: str) -> list[Shared]:
    """The bundles of a model, also those that were cut off while they were published."""
    found = []
    for marker, begun in (root / "models" / model).objects():
        with contextlib.suppress(FileNotFoundError):
            found.append(Shared(marker.name, marker.read_text(), begun))
    return sorted(found, key=lambda shared: (shared.begun, shared.digest))


def remove_shared(root: SharedFolder, model: str, bundle: Shared) -> None:
    """Remove a bundle with its training key and verdicts; one that was removed in part only is gone, and can be removed again.

    Raises:
        StorageError: If the store fails.
    """
    digest = bundle.digest
    pointer = root / "keys" / bundle.training_key
    with contextlib.suppress(FileNotFoundError):
        # a training that runs again must not adopt what is about to go
        if pointer.read_text().strip() == digest:
            pointer.unlink(missing_ok=True)
    for name in (MANIFEST, *FILES, *OPTIONAL_FILES):
        (root / digest / name).unlink(missing_ok=True)
    for beside in root.place.glob(f"verdicts/{digest}.*"):
        beside.unlink(missing_ok=True)
    _marker(root, model, digest).unlink(missing_ok=True)
    forget_bundle(root, digest)


def _marker(root: SharedFolder, model: str, digest: str) -> ObjectPath:
    return root / "models" / model / digest


def _fetch(source: ObjectPath, file: Path, sha256: str) -> None:
    found = hashlib.sha256()
    try:
        with file.open("wb") as sink:
            for chunk in source.chunks():
                found.update(chunk)
                sink.write(chunk)
    except FileNotFoundError as exc:
        raise BundleError(f"{source}: is missing; restore the bundle or train again") from exc
    if found.hexdigest() != sha256:
        raise BundleError(f"{source}: its SHA-256 differs from the one it was stored with; restore the bundle or train again")


def _forget_unused(cache: Path) -> None:
    """Remove copies that this host has not used for long; the store has them."""
    for path in cache.glob("[0-9a-f]*"):
        try:
            if path.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                path.rename(gone := path.with_name(f".building-gone-{path.name}-{os.getpid()}"))
                shutil.rmtree(gone)
        except OSError as exc:
            log.info("%s: an unused copy could not be removed: %s", path, exc.strerror)
