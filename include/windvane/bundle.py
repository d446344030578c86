"""The bundle: an immutable, content-addressed directory that holds one model and everything needed to serve and judge it.

<bundles>/<digest>/bundle.json         what it is, with the SHA-256 of every other file; its own SHA-256 is the digest
                   model.skops         the fitted pipeline
                   model.onnx          the same for onnxruntime, where it converts and says the same
                   model.py            the model file that it was trained with
                   golden.parquet      rows and the predictions of the runtime that will serve
                   reference.parquet   rows of the training time, for drift
<bundles>/keys/<training key>          the digest that was first made from that training key
<bundles>/verdicts/<digest>.json       what is learned later stands beside the bundle, never in it

Where `<bundles>` is an object store, a directory of this host stands before it: see `shared_folder`.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windvane.errors import BundleError, StorageError
from windvane.model_code import ModelCode
from windvane.predictor import golden_frame, load_predictor
from windvane.read_manifest import MANIFEST, read_manifest
from windvane.shared_folder import BundleRoot, open_shared, share_bundle
from windvane.verified_file import read_verified

if TYPE_CHECKING:
    import pandas as pd

_ABANDONED_SECONDS = 86_400


@dataclass(frozen=True)
class Bundle:
    """One bundle on disk.

    Attributes:
        digest: SHA-256 of `bundle.json`, which is also the directory's name.
        manifest: The content of `bundle.json`.
    """

    digest: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def training_key(self) -> str:
        """What it was made from."""
        return str(self.manifest["training_key"])

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all its files."""
        return (*self.manifest["files"], MANIFEST)

    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum((self.path / name).stat().st_size for name in self.files)


def write_bundle(
    root: BundleRoot,
    *,
    pipeline: Any,
    code: ModelCode,
    golden: "pd.DataFrame",
    reference: "pd.DataFrame",
    manifest: Mapping[str, Any],
    sample: "pd.DataFrame | None" = None,
) -> Bundle:
    """Write a bundle so that it is there as a whole or not at all, and return it.

    The model is loaded back from its own bytes. If it converts to ONNX and both runtimes predict the sample alike, ONNX will serve.
    The predictions of the golden rows that are stored are those of the runtime that will serve.
    If another process made a bundle from the same training key first, that one is returned.

    Args:
        root: Where all bundles are.
        pipeline: The fitted scikit-learn pipeline.
        code: The model file that it belongs to.
        golden: Input rows with at least the columns of the signature.
        reference: Rows for drift.
        manifest: Everything of `bundle.json` except `files` and `runtime`.
        sample: Rows on which the runtimes are compared; None for the golden rows.

    Raises:
        BundleError: If the pipeline holds something that cannot be stored or may not be loaded again.
        StorageError: If the disk is full or not writable.
    """
    home = root if isinstance(root, Path) else root.cache
    with building_directory(home) as building:
        rows = golden if sample is None else sample
        made = _fill(building, pipeline=pipeline, code=code, golden=golden, reference=reference, manifest=manifest, sample=rows)
        publish(building, home / made)
        if isinstance(root, Path):
            return _claim(root, str(manifest["training_key"]), made)
    return open_bundle(root, share_bundle(root, open_local(home / made, made)))


def open_bundle(root: BundleRoot, digest: str) -> Bundle:
    """Open a bundle after verifying every byte of it.

    Raises:
        BundleError: If it is missing, or a file is missing, changed, added, or a link.
        StorageError: If an object store does not give it.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BundleError(f"{root}: got the bundle digest {digest!r:.80}, allowed are 64 hexadecimal digits")
    return open_local(root / digest, digest) if isinstance(root, Path) else open_shared(root, digest)


def open_local(path: Path, digest: str) -> Bundle:
    """Open a bundle in a directory of this host."""
    if not path.is_dir() or path.is_symlink():
        raise BundleError(f"{path}: there is no such bundle; restore it or train again")
    manifest = read_manifest(path / MANIFEST, digest)
    found = sorted(os.listdir(path))
    wanted = sorted([*manifest["files"], MANIFEST])
    if found != wanted:
        raise BundleError(f"{path}: has the files {found[:10]}, allowed are {wanted}; restore the bundle or train again")
    for name, expected in manifest["files"].items():
        read_verified(path / name, expected)
    return Bundle(digest=digest, path=path, manifest=manifest)


def find_bundle(root: BundleRoot, training_key: str) -> Bundle | None:
    """Find the bundle made from a training key; one that was damaged since does not count."""
    try:
        return open_bundle(root, (root / "keys" / training_key).read_text().strip())
    except (FileNotFoundError, BundleError):
        return None


def read_golden(bundle: Bundle) -> "pd.DataFrame":
    """The golden rows: input columns, `prediction`, and `probability_<class>` for classifiers."""
    import pandas as pd

    return pd.read_parquet(bundle.path / "golden.parquet")


def read_reference(bundle: Bundle) -> "pd.DataFrame":
    """Rows of the training time: input columns, the label, `prediction`, `score` and `holdout` (not trained on)."""
    import pandas as pd

    return pd.read_parquet(bundle.path / "reference.parquet")


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON bytes that are the same for equal content; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


@contextmanager
def building_directory(root: Path) -> Iterator[Path]:
    """A directory beside the bundles in which one is put together; what is left of it in the end is removed.

    Raises:
        StorageError: If the disk is full or not writable.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    except OSError as exc:
        raise StorageError(f"{root}: cannot be written: {exc.strerror}; free space or permissions are needed") from exc
    try:
        yield building
    except OSError as exc:
        raise StorageError(f"{building}: cannot be written: {exc.strerror}; nothing was published; free space and try again") from exc
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what attempts that were killed long ago left behind."""
    for left in root.glob(".building-*"):
        if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _fill(
    path: Path,
    *,
    pipeline: Any,
    code: ModelCode,
    golden: "pd.DataFrame",
    reference: "pd.DataFrame",
    manifest: Mapping[str, Any],
    sample: "pd.DataFrame",
) -> str:
    from windvane.convert_onnx import add_onnx
    from windvane.skops_predictor import SkopsPredictor

    (path / "model.skops").write_bytes(_dump(pipeline, code, str(manifest["model"])))
    shutil.copyfile(code.path, path / "model.py")
    files = _digests(path)
    if files["model.py"] != code.sha256:
        raise BundleError(f"{code.path}: changed while the model was trained; train again")
    runtime = add_onnx(SkopsPredictor(Bundle(digest="", path=path, manifest={**manifest, "files": files})), sample)
    manifest = {**manifest, "runtime": runtime}
    predictor = load_predictor(Bundle(digest="", path=path, manifest={**manifest, "files": _digests(path)}))
    rows = golden[[c.name for c in predictor.signature]].reset_index(drop=True)
    golden_frame(rows, predictor.predict(rows), predictor.classes).to_parquet(path / "golden.parquet", index=False)
    reference.reset_index(drop=True).to_parquet(path / "reference.parquet", index=False)
    data = canonical({**manifest, "files": _digests(path)})
    (path / MANIFEST).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _digests(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sorted(os.listdir(path))}


def _dump(pipeline: Any, code: ModelCode, model: str) -> bytes:
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    from windvane.skops_predictor import untrusted_types

    try:
        data: bytes = skops.io.dumps(pipeline)
        unknown = untrusted_types(data, model)
    except (UnsupportedTypeException, TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise BundleError(
            f"{code.path}: the pipeline cannot be stored without pickle: {type(exc).__name__}: {exc!s:.200}; "
            "use scikit-learn's estimators and named functions of this file, no lambdas"
        ) from exc
    if unknown:
        raise BundleError(
            f"{code.path}: the pipeline holds types that may not be loaded again: {', '.join(unknown[:10])}; "
            "allowed are those of scikit-learn and what this file itself defines"
        )
    return data


def publish(building: Path, path: Path) -> None:
    """Give a directory that is complete its name."""
    for name in os.listdir(building):
        _sync(building / name)
    _sync(building)
    os.chmod(building, 0o755)
    try:
        os.rename(building, path)
    except OSError:
        # the same bytes were published before; anything else is an error
        if not path.is_dir():
            raise
    _sync(path.parent)


def _claim(root: Path, training_key: str, digest: str) -> Bundle:
    """Point the training key at the bundle unless another good one has it; returns the one that has it."""
    pointer = root / "keys" / training_key
    pointer.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=pointer.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, pointer)
        except FileExistsError:
            winner = find_bundle(root, training_key)
            if winner is not None and winner.digest != digest:
                shutil.rmtree(root / digest, ignore_errors=True)
                return winner
            os.replace(name, pointer)
        _sync(pointer.parent)
    finally:
        Path(name).unlink(missing_ok=True)
    return open_bundle(root, digest)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
