"""Reads configs for who asks every few seconds for all of them: a file that did not change is not parsed again."""

import os
import time
from pathlib import Path

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.load_config import load_config

_YOUNG_SECONDS = 2.0

# what tells a file from what it was, and the config or its problems
_known: dict[Path, tuple[tuple[int, int, int, str], ModelConfig | tuple[str, ...]]] = {}


def reload_config(path: Path) -> ModelConfig:
    """Read one config, or remember it.

    Raises:
        ConfigError: With all problems of the file.
    """
    try:
        found = path.stat()
    except OSError:
        return load_config(path)
    mark = (found.st_mtime_ns, found.st_size, found.st_ino, os.environ.get("WINDVANE_TARGET", ""))
    before = _known.get(path)
    if before and before[0] == mark:
        remembered = before[1]
    else:
        try:
            remembered = load_config(path)
        except ConfigError as exc:
            remembered = exc.problems
        # what was written just now may be written once more at what a file system takes for the same moment
        if time.time() - found.st_mtime > _YOUNG_SECONDS:
            _known[path] = (mark, remembered)
    if isinstance(remembered, ModelConfig):
        return remembered
    raise ConfigError(remembered)
