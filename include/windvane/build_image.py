"""Builds the image of a version: a base image, built once per platform version and lock, plus one layer with the bundle."""

import hashlib
import io
import logging
import tarfile
from collections.abc import Mapping
from typing import Any

from windvane.bundle import FILES, MANIFEST, Bundle
from windvane.connect_docker import labels_of
from windvane.errors import ServiceUnavailable
from windvane.settings import REPOSITORY, Settings

log = logging.getLogger(__name__)

BASE_NAME = "windvane/scorer"
_SCORER = REPOSITORY / "include" / "docker" / "scorer"
_PLATFORM = REPOSITORY / "include" / "windvane"
# what `windvane.scoring` imports; the rehearsal in the container fails if one is missing
_MODULES = ("__init__", "bundle", "errors", "model_code", "predictor", "settings", "signature", "windows")


def ensure_base(client: Any) -> str:
    """Return the tag of the base image, which is built unless it is there.

    Raises:
        ServiceUnavailable: If the build fails; the message ends with its last words.
    """
    files = {name: (_SCORER / name).read_bytes() for name in ("Dockerfile", "requirements.txt")}
    files |= {f"windvane/{name}.py": (_PLATFORM / f"{name}.py").read_bytes() for name in _MODULES}
    files |= {f"windvane/scoring/{path.name}": path.read_bytes() for path in sorted((_PLATFORM / "scoring").glob("*.py"))}
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + hashlib.sha256(data).digest() for name, data in sorted(files.items())))
    tag = f"{BASE_NAME}:{digest.hexdigest()[:16]}"
    if not _has(client, tag):
        log.info("building the base image %s: with packages to download this takes a minute or two", tag)
        _build(client, tag, files, labels={"windvane.base": "true"})
    return tag


def ensure_image(client: Any, settings: Settings, bundle: Bundle, *, version: int) -> str:
    """Return the tag of the image that serves a bundle as a version, which is built unless it is there.

    Raises:
        ServiceUnavailable: If the build fails.
    """
    model, base = str(bundle.manifest["model"]), ensure_base(client)
    tag = f"windvane/{model}:{version}-{bundle.digest[:12]}-{base.rpartition(':')[2][:8]}"
    if not _has(client, tag):
        files = {f"bundle/{name}": (bundle.path / name).read_bytes() for name in (*FILES, MANIFEST)}
        files["Dockerfile"] = f"FROM {base}\nCOPY bundle /bundles/{bundle.digest}\n".encode()
        log.info("building the image %s", tag)
        _build(client, tag, files, labels=labels_of(settings, model=model, version=str(version), digest=bundle.digest))
    return tag


def _has(client: Any, tag: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    return True


def _build(client: Any, tag: str, files: Mapping[str, bytes], *, labels: Mapping[str, str]) -> None:
    from docker.errors import APIError, BuildError

    try:
        client.images.build(fileobj=_tar(files), custom_context=True, tag=tag, labels=dict(labels), rm=True, forcerm=True)
    except BuildError as exc:
        said = " ".join(str(line.get("stream") or line.get("error") or "").strip() for line in exc.build_log)
        raise ServiceUnavailable(f"Docker image {tag} does not build: {exc.msg!s:.300}; its last words: {said[-600:]}") from exc
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
