"""Builds the image of a version: a base image, built once per platform version and lock, plus one layer with the bundle.

Also removes the images of versions that nobody can go back to any more.
"""

import ast
import hashlib
import io
import logging
import tarfile
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windvane.bundle import Bundle
from windvane.connect_docker import labels_of
from windvane.errors import ServiceUnavailable
from windvane.settings import REPOSITORY, Settings

log = logging.getLogger(__name__)

BASE_NAME = "windvane/scorer"
_SCORER = REPOSITORY / "include" / "docker" / "scorer"
_PLATFORM = REPOSITORY / "include" / "windvane"
_YOUNG_SECONDS = 3600.0
_LAST_WORDS = 12

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """An image that is there now.

    Attributes:
        made: Whether it was built or downloaded just now.
        seconds: How long that took.
    """

    tag: str
    made: bool
    seconds: float


def prepare_images(client: Any, *, say: Say) -> list[Prepared]:
    """Have every image that does not depend on a version, so that no deployment waits for a download.

    Raises:
        ServiceUnavailable: If one can be neither built nor downloaded.
    """
    from windvane.scorer_containers import PROXY_IMAGE

    base, _ = _base()
    prepared = []
    for tag, ensure in ((base, lambda: ensure_base(client, say=say)), (PROXY_IMAGE, lambda: ensure_pulled(client, PROXY_IMAGE, say=say))):
        missing, began = not _has(client, tag), time.monotonic()
        ensure()
        prepared.append(Prepared(tag, missing, time.monotonic() - began))
    return prepared


def ensure_base(client: Any, *, say: Say = log.info) -> str:
    """Return the tag of the base image, which is built unless it is there.

    Raises:
        ServiceUnavailable: If the build fails; the message ends with its last words.
    """
    tag, files = _base()
    if not _has(client, tag):
        say(f"building the base image {tag}: with packages to download this takes a minute or two")
        _build(client, tag, files, labels={"windvane.base": "true"}, say=say)
    return tag


def ensure_pulled(client: Any, tag: str, *, say: Say = log.info) -> None:
    """Download a public image unless it is there.

    Raises:
        ServiceUnavailable: If it cannot be downloaded.
    """
    from docker.errors import DockerException

    if _has(client, tag):
        return
    say(f"downloading {tag}")
    try:
        client.images.pull(tag)
    except DockerException as exc:
        raise ServiceUnavailable(f"Docker image {tag} cannot be pulled: {exc!s:.300}; check the registry") from exc


def ensure_image(client: Any, settings: Settings, bundle: Bundle, *, version: int) -> str:
    """Return the tag of the image that serves a bundle as a version, which is built unless it is there.

    When the base image cannot be had, such as after an upgrade without a network, an image that served the bundle before does.

    Raises:
        ServiceUnavailable: If the build fails.
    """
    model = str(bundle.manifest["model"])
    labels = labels_of(settings, model=model, version=str(version), digest=bundle.digest)
    try:
        base = ensure_base(client)
    except ServiceUnavailable as exc:
        for image in client.images.list(filters={"label": [f"{name}={value}" for name, value in labels.items()]}):
            if image.tags:
                log.warning("%s: serving from %s, which was built before: %s", model, image.tags[0], exc)
                return str(image.tags[0])
        raise
    tag = f"windvane/{model}:{version}-{bundle.digest[:12]}-{base.rpartition(':')[2][:8]}"
    if not _has(client, tag):
        files = {f"bundle/{path.name}": path.read_bytes() for path in sorted(bundle.path.iterdir())}
        files["Dockerfile"] = f"FROM {base}\nCOPY bundle /bundles/{bundle.digest}\n".encode()
        began = time.monotonic()
        _build(client, tag, files, labels=labels)
        log.info("built the image %s in %.2f s", tag, time.monotonic() - began)
    return tag


def prune_images(client: Any, settings: Settings, model: str, keep: Collection[str], *, young_seconds: float | None = None) -> list[str]:
    """Remove the images of a model's bundles that are not kept; only images of this installation, and none that is in use.

    Args:
        keep: Digests of the bundles whose images stay.
        young_seconds: An image that was built within so many seconds stays: a deployment may be about to start it. Default: an hour.

    Returns:
        The tags that were removed.
    """
    from docker.errors import APIError, ImageNotFound

    young_seconds = _YOUNG_SECONDS if young_seconds is None else young_seconds
    wanted = [f"{name}={value}" for name, value in labels_of(settings, model=model).items()]
    found = [image for image in client.images.list(filters={"label": wanted}) if image.labels.get("windvane.digest") not in keep]
    if not found:
        return []
    used = {container.attrs["ImageID"] for container in client.containers.list(all=True, sparse=True)}
    removed = []
    for image in found:
        if image.id in used or _age_seconds(image) < young_seconds:
            continue
        for tag in image.tags:
            try:
                client.images.remove(tag)
                removed.append(str(tag))
            except ImageNotFound:
                log.debug("%s: is gone already", tag)
            except APIError as exc:
                if exc.status_code != 409:
                    raise
                log.info("%s: is in use by now and stays", tag)
    return removed


def _age_seconds(image: Any) -> float:
    # the engine writes nanoseconds, which are more digits than Python reads
    created = datetime.strptime(image.attrs["Created"][:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return (datetime.now(UTC) - created).total_seconds()


def _base() -> tuple[str, dict[str, bytes]]:
    """The base image's tag, which names its content, and its build context."""
    files = {name: (_SCORER / name).read_bytes() for name in ("Dockerfile", "requirements.txt")}
    files |= {f"windvane/{path.relative_to(_PLATFORM)}": path.read_bytes() for path in _platform_files()}
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + hashlib.sha256(data).digest() for name, data in sorted(files.items())))
    return f"{BASE_NAME}:{digest.hexdigest()[:16]}", files


def _platform_files() -> list[Path]:
    """The platform's modules that the scoring service may import, one through another."""
    waiting, found = [*sorted((_PLATFORM / "scoring").glob("*.py")), _PLATFORM / "__init__.py"], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            parts = [name.split(".")[1:] for name in names if name.startswith("windvane.")]
            waiting += [file for file in (_PLATFORM.joinpath(*part).with_suffix(".py") for part in parts) if file.is_file()]
    return sorted(found)


def _has(client: Any, tag: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    return True


def _build(client: Any, tag: str, files: Mapping[str, bytes], *, labels: Mapping[str, str], say: Say = log.debug) -> None:
    from docker.errors import APIError

    said: deque[str] = deque(maxlen=_LAST_WORDS)
    try:
        for line in client.api.build(
            fileobj=_tar(files), custom_context=True, tag=tag, labels=dict(labels), rm=True, forcerm=True, decode=True
        ):
            if text := str(line.get("stream") or line.get("error") or "").strip():
                said.append(text)
                if text.startswith("Step "):
                    say(text)
            if "error" in line:
                raise ServiceUnavailable(
                    f"Docker image {tag} does not build: {line['error']!s:.300}; its last words: {' '.join(said)[-600:]}"
                )
    except APIError as exc:
        raise ServiceUnavailable(f"Docker image {tag} does not build: {exc.explanation!s:.500}") from exc


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    """The build context; the same content gives the same bytes, so that Docker's cache works."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = sorted({folder for name in files for folder in _parents(name)})
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
