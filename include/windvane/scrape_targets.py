"""Tells Prometheus where the scorers and the HAProxy of each model are, in files that it watches: so it needs no Docker socket.

The form is that of Prometheus's `file_sd_configs`.
"""

import json
from collections.abc import Mapping, Sequence

from windvane.settings import Settings
from windvane.store_files import write_bytes

SCORER_PORT, PROXY_PORT = 8080, 8405


def write_scrape_targets(settings: Settings, model: str, *, scorers: Mapping[int, Sequence[str]], proxy: str) -> None:
    """Write the files of a model where they changed; nothing where the platform shares no network with what serves.

    Args:
        scorers: Names of the containers of each version.
        proxy: Name of the HAProxy container.

    Raises:
        StorageError: If they cannot be written.
    """
    if not settings.network:
        return
    _write(settings, model, "scorers", [f"{name}:{SCORER_PORT}" for names in scorers.values() for name in names])
    _write(settings, model, "haproxy", [f"{proxy}:{PROXY_PORT}"])


def _write(settings: Settings, model: str, kind: str, targets: Sequence[str]) -> None:
    groups = [{"targets": sorted(targets), "labels": {"model": model}}]
    path, content = settings.var / "scrape" / f"{model}-{kind}.json", json.dumps(groups, indent=1).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
        path.chmod(0o644)
