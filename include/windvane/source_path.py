"""Paths in configs: relative to the project, with the ends of the window in them."""

from pathlib import Path

from windvane.errors import ConfigError
from windvane.windows import Window


def source_path(project: Path, template: str, window: Window) -> str:
    """Fill `{start:%Y-%m}` and `{end:%Y-%m}` of a path or glob; a relative one starts at the project.

    Raises:
        ConfigError: If the template names anything else.
    """
    try:
        filled = template.format(start=window.start, end=window.end)
    except (KeyError, IndexError, ValueError, AttributeError) as exc:
        raise ConfigError([f"path {template!r}: {exc!r}; allowed are {{start:%Y-%m-%d}} and {{end:%Y-%m-%d}}"]) from exc
    return str(project / filled)
