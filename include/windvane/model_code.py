"""Loads the Python file that a data scientist writes for a model, by path, never through sys.path."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from windvane.errors import ModelCodeError
from windvane.verified_file import read_verified


@dataclass(frozen=True)
class ModelCode:
    """The functions of one model file; only `build_pipeline` is required.

    Attributes:
        build_pipeline: `(params) -> sklearn.pipeline.Pipeline`.
        read: `(window, connection) -> DataFrame`, for `source: {type: python}`.
        features: `(frame) -> frame`, row-wise and pure; the identity when the file has none.
        search_space: `(trial) -> params` for Optuna.
        sha256: Digest of the file.
    """

    path: Path
    sha256: str
    module: ModuleType
    build_pipeline: Callable[[dict[str, Any]], Any]
    read: Callable[..., Any] | None
    features: Callable[[Any], Any]
    search_space: Callable[[Any], dict[str, Any]] | None


def load_model_code(path: Path, model: str, *, sha256: str | None = None) -> ModelCode:
    """Import the file as `windvane_model_<model>` and return its functions.

    Args:
        sha256: What the file's digest must be; None for a file that is still worked on.

    Raises:
        BundleError: If the digest is another one; then nothing of the file has run.
        ModelCodeError: If the file is missing, does not import, or lacks `build_pipeline`.
    """
    source = None if sha256 is None else read_verified(path, sha256)
    if source is None and not path.is_file():
        raise ModelCodeError(f"{path}: the model file is missing; create it with a function build_pipeline(params)")
    name = f"windvane_model_{model}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelCodeError(f"{path}: not a Python file; it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        source = path.read_bytes() if source is None else source
        # not by the loader: byte code beside the file would be one file too many in a bundle, and can be older than the source
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as exc:
        raise ModelCodeError(f"{path}: does not import: {type(exc).__name__}: {exc}") from exc
    build = getattr(module, "build_pipeline", None)
    if not callable(build):
        raise ModelCodeError(f"{path}: has no function build_pipeline(params) that returns a scikit-learn Pipeline; add it")
    return ModelCode(
        path=path,
        sha256=hashlib.sha256(source).hexdigest(),
        module=module,
        build_pipeline=build,
        read=getattr(module, "read", None),
        features=getattr(module, "features", None) or _unchanged,
        search_space=getattr(module, "search_space", None),
    )


def _unchanged(frame: Any) -> Any:
    return frame
