"""What a training is made from: a version of the lake's table, its windows, and the digests of config, code and lock file."""

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from windvane.config import ModelConfig
from windvane.errors import ConfigError, DataError, NotEnoughData
from windvane.lake import Lake
from windvane.model_code import ModelCode
from windvane.settings import REPOSITORY, Settings
from windvane.windows import Window

log = logging.getLogger(__name__)

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides what comes out of a training.

    Attributes:
        table_version: Version of the table `raw`.
        train: Rows to fit on.
        holdout: Newer rows, for the gates only.
        code_digest: SHA-256 of the model file.
        code_commit: Git commit, with `-dirty` when the working tree differs; `unknown` outside git.
        lock_digest: SHA-256 of requirements.txt.
    """

    model: str
    table_version: int
    train: Window
    holdout: Window
    config_digest: str
    code_digest: str
    code_commit: str
    lock_digest: str
    seed: int

    @property
    def training_key(self) -> str:
        """Equal for trainings that must give the same model; a retry finds earlier work by it."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    @property
    def data_digest(self) -> str:
        """Names the rows: equal for the same version and windows."""
        text = f"{self.model}@{self.table_version}:{self.train.key}+{self.holdout.key}"
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The form for XCom, the bundle and MLflow."""
        return {
            "model": self.model,
            "table_version": self.table_version,
            "train": self.train.as_extra(),
            "holdout": self.holdout.as_extra(),
            "config_digest": self.config_digest,
            "code_digest": self.code_digest,
            "code_commit": self.code_commit,
            "lock_digest": self.lock_digest,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Snapshot":
        """Read what `as_json` wrote.

        Raises:
            DataError: If a window is missing.
        """
        train, holdout = Window.from_extra(value["train"]), Window.from_extra(value["holdout"])
        if train is None or holdout is None:
            raise DataError("snapshot: a window is missing; plan the training again")
        return cls(**{**value, "train": train, "holdout": holdout})


def plan_training(config: ModelConfig, code: ModelCode, lake: Lake, *, window: Window | None, settings: Settings) -> Snapshot:
    """Fix what to train on; nothing that is ingested later changes it.

    Args:
        window: Training window with the holdout as its tail; default: it ends where outcomes are complete, at the
            watermark minus `data.label_delay`, and is `train.window` long, or begins at `data.start`.

    Raises:
        NotEnoughData: If nothing was ingested, or there are no labelled rows (of two classes) to train and to judge on.
        ConfigError: If the window is not longer than `train.holdout`.
    """
    version, watermark = lake.version(config.model, "raw"), lake.watermark(config.model)
    if version is None or watermark is None:
        raise NotEnoughData(f"{config.model}: nothing was ingested yet; run {config.model}__ingest first")
    if window is None:
        end = watermark - config.data.label_delay
        window = _from_first_data(Window(end - config.train.window, end), config)
    holdout = window.tail(config.train.holdout)
    if holdout.start <= window.start:
        raise ConfigError([f"params: the window {window} must be longer than train.holdout ({config.train.holdout}); give a longer one"])
    snapshot = Snapshot(
        model=config.model,
        table_version=version,
        train=Window(window.start, holdout.start),
        holdout=holdout,
        config_digest=config.digest(),
        code_digest=code.sha256,
        code_commit=_commit_of(code.path.parent),
        lock_digest=_lock_digest(settings),
        seed=config.train.seed,
    )
    _require_labels(config, lake, snapshot)
    return snapshot


def _from_first_data(window: Window, config: ModelConfig) -> Window:
    """The window without what lies before `data.start`, if that leaves something before the holdout."""
    first = config.data.start
    return Window(first, window.end) if first and window.start < first < window.end - config.train.holdout else window


def read_snapshot(config: ModelConfig, code: ModelCode, lake: Lake, snapshot: Snapshot) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the labelled rows of a snapshot, sorted by time and id: (train, holdout).

    Raises:
        NotEnoughData: If either has none.
        ModelCodeError: If the model file is not the one that the snapshot was planned with.
    """
    if code.sha256 != snapshot.code_digest:
        log.warning("%s: changed since the training was planned; the snapshot names the earlier file", code.path)
    rows = _labelled(config, lake, snapshot)
    time = config.data.time
    keys = [time] if config.data.id is None else [time, config.data.id]
    rows = rows.sort_values(keys, kind="stable", ignore_index=True)
    rows[config.data.label] = labels_of(rows[config.data.label], config)
    newer = (rows[time] >= snapshot.holdout.start).to_numpy()
    train, holdout = rows[~newer].reset_index(drop=True), rows[newer].reset_index(drop=True)
    _require_both(config, snapshot, train[config.data.label], holdout[config.data.label])
    return train, holdout


def labels_of(labels: "pd.Series[Any]", config: ModelConfig) -> "pd.Series[Any]":
    """Labels in the type that the model predicts: whole numbers where nulls had made floats of them, floats in a regression."""
    if not config.is_classifier:
        return labels.astype("float64")
    if pd.api.types.is_float_dtype(labels.dtype) and (labels % 1 == 0).all():
        return labels.astype("int64")
    if labels.dtype == object and pd.api.types.infer_dtype(labels, skipna=True) == "boolean":
        return labels.astype(bool)
    return labels


def _labelled(config: ModelConfig, lake: Lake, snapshot: Snapshot, *, columns: list[str] | None = None) -> pd.DataFrame:
    window = Window(snapshot.train.start, snapshot.holdout.end)
    rows = lake.read(config.model, "raw", window=window, time=config.data.time, version=snapshot.table_version, columns=columns)
    return rows[rows[config.data.label].notna()]


def _require_labels(config: ModelConfig, lake: Lake, snapshot: Snapshot) -> None:
    rows = _labelled(config, lake, snapshot, columns=[config.data.time, config.data.label])
    newer = rows[config.data.time] >= snapshot.holdout.start
    _require_both(config, snapshot, rows[config.data.label][~newer], rows[config.data.label][newer])


def _require_both(config: ModelConfig, snapshot: Snapshot, train: "pd.Series[Any]", holdout: "pd.Series[Any]") -> None:
    for name, window, labels in (("train", snapshot.train, train), ("holdout", snapshot.holdout, holdout)):
        if labels.empty:
            raise NotEnoughData(
                f"{config.model}: no row of the {name} window {window} has a label in '{config.data.label}'; "
                "ingest the window and its outcomes, or give another window"
            )
    if config.is_classifier and train.nunique() < 2:
        raise NotEnoughData(
            f"{config.model}: the {len(train)} labelled rows of the train window {snapshot.train} have one class only, "
            "allowed are two or more; ingest more data, or give another window"
        )


def _commit_of(directory: Path) -> str:
    def git(*arguments: str) -> str:
        # a lock would disturb a person who works in the same tree
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(["git", *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError) as exc:
        log.info("%s: no git commit to record (%s)", directory, type(exc).__name__)
        return UNKNOWN


def _lock_digest(settings: Settings) -> str:
    for root in (settings.project, REPOSITORY):
        path = root / "requirements.txt"
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return UNKNOWN
