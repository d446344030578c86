"""What a training is made from: a version of the lake's table, its windows, and the digests of config, code and lock file."""

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from windvane.bundle import Bundle, open_bundle
from windvane.config import ModelConfig
from windvane.draw_rows import Chosen, Counted, count_chosen, draw_rows
from windvane.errors import ConfigError, DataError, NotEnoughData
from windvane.lake import Lake
from windvane.model_code import ModelCode
from windvane.release_window import unreleased_windows
from windvane.settings import REPOSITORY, Settings
from windvane.windows import Window, as_utc

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
_MOST_HOLDOUT = 0.4
_HOLDOUT_PART = 4


class Serving(NamedTuple):
    """The version that serves, and the digest of its bundle."""

    version: int
    digest: str


@dataclass(frozen=True)
class Sample:
    """What is read of windows that have more labelled rows than a training may take.

    Attributes:
        max_rows: Rows to fit on at most; a quarter of that is held out at most.
        train_rows: Labelled rows of the train window.
        holdout_rows: Labelled rows of the holdout.
    """

    max_rows: int
    train_rows: int
    holdout_rows: int

    def __str__(self) -> str:
        return f"of {self.train_rows:,} rows to train on at most {self.max_rows:,}, of {self.holdout_rows:,} held out {self.max_holdout:,}"

    @property
    def max_holdout(self) -> int:
        """Rows to hold out at most."""
        return self.max_rows // _HOLDOUT_PART

    @property
    def is_needed(self) -> bool:
        """Whether either window has more."""
        return self.train_rows > self.max_rows or self.holdout_rows > self.max_holdout


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides what comes out of a training.

    Attributes:
        table_version: Version of the table `raw`.
        train: Rows to fit on.
        holdout: Newer rows, for the gates only.
        code_digest: SHA-256 of the model file; of the bundle's own one when it is recalibrated.
        code_commit: Git commit, with `-dirty` when the working tree differs; `unknown` outside git.
        lock_digest: SHA-256 of requirements.txt.
        recalibrates: Digest of the bundle that gets a new calibration and stays as it is otherwise; None for a training.
        excluded: Windows held back as bad data; no row of them is read.
        sample: What is read of more rows than `train.max_rows`; None where all are read.
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
    recalibrates: str | None = None
    excluded: tuple[Window, ...] = ()
    sample: Sample | None = None

    @property
    def training_key(self) -> str:
        """Equal for trainings that must give the same model; a retry finds earlier work by it."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    @property
    def data_digest(self) -> str:
        """Names the rows: equal for the same version and windows."""
        without = "".join(f"-{window.key}" for window in self.excluded)
        drawn = f"/{self.sample.max_rows}" if self.sample else ""
        text = f"{self.model}@{self.table_version}:{self.train.key}+{self.holdout.key}{without}{drawn}"
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The form for XCom, the bundle and MLflow; what does not apply is left out, so that keys of earlier trainings stay."""
        value: dict[str, Any] = {
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
        if self.recalibrates:
            value["recalibrates"] = self.recalibrates
        if self.excluded:
            value["excluded"] = [window.as_extra() for window in self.excluded]
        if self.sample:
            value["sample"] = asdict(self.sample)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Snapshot":
        """Read what `as_json` wrote.

        Raises:
            DataError: If a window is missing.
        """
        train, holdout = Window.from_extra(value["train"]), Window.from_extra(value["holdout"])
        excluded = [window for window in map(Window.from_extra, value.get("excluded", ())) if window]
        if train is None or holdout is None or len(excluded) < len(value.get("excluded", ())):
            raise DataError("snapshot: a window is missing; plan the training again")
        sample = Sample(**value["sample"]) if value.get("sample") else None
        return cls(**{**value, "train": train, "holdout": holdout, "excluded": tuple(excluded), "sample": sample})


def plan_training(
    config: ModelConfig, code: ModelCode, lake: Lake, *, window: Window | None, settings: Settings, champion: Serving | None = None
) -> Snapshot:
    """Fix what to train on; nothing that is ingested later changes it.

    Without a window, the newest decision of the monitor is followed if it is `retrain` or `recalibrate` and about the version that
    still serves: it says from when to train, from when to hold out, and whether only to calibrate anew. Windows held back
    as bad data are left out.

    Args:
        window: Training window with the holdout as its tail, as a person gave it; default: it ends where outcomes are complete, at
            the watermark minus `data.label_delay`, and begins as decided, or is `train.window` long, or begins at `data.start`. The
            holdout of one that is shorter than `train.window` is at most 40 % of it.
        champion: What serves; None when nothing does.

    Raises:
        NotEnoughData: If nothing was ingested, or there are no labelled rows (of two classes) to train and to judge on.
        ConfigError: If the window is not longer than `train.holdout`.
        BundleError: If the bundle to recalibrate is damaged.
    """
    version, watermark = lake.version(config.model, "raw"), lake.watermark(config.model)
    if version is None or watermark is None:
        raise NotEnoughData(f"{config.model}: nothing was ingested yet; run {config.model}__ingest first")
    recalibrated, length = None, config.train.holdout
    if window is None:
        end = watermark - config.data.label_delay
        plan = _decided(config, lake, champion, end=end)
        recalibrated = open_bundle(settings.bundles, champion.digest) if champion and plan and plan.recalibrate else None
        window = _planned(plan, recalibrated, end=end) or _from_first_data(Window(end - config.train.window, end), config)
        planned = plan.holdout_start if plan else None
        # a trial may have judged more rows than usually are held out, or fewer: the gates then judge on the same
        length = end - planned if planned and window.start < planned < end else _holdout_of(window, config)
    holdout = window.tail(length)
    if holdout.start <= window.start:
        raise ConfigError([f"params: the window {window} must be longer than train.holdout ({config.train.holdout}); give a longer one"])
    manifest = recalibrated.manifest if recalibrated else {}
    snapshot = Snapshot(
        model=config.model,
        table_version=version,
        train=Window(window.start, holdout.start),
        holdout=holdout,
        config_digest=config.digest(),
        code_digest=manifest["files"]["model.py"] if manifest else code.sha256,
        code_commit=str(manifest.get("code_commit", UNKNOWN)) if manifest else _commit_of(code.path.parent),
        lock_digest=_lock_digest(settings),
        seed=config.train.seed,
        recalibrates=recalibrated.digest if recalibrated else None,
        excluded=tuple(held for held in unreleased_windows(config, lake) if held.start < window.end and window.start < held.end),
    )
    train, newer = (_count(config, lake, snapshot, part) for part in (snapshot.train, snapshot.holdout))
    _require_both(config, snapshot, train, newer)
    sample = Sample(config.train.max_rows, train.rows, newer.rows)
    if not sample.is_needed:
        return snapshot
    log.info("%s: the windows have more rows than train.max_rows: %s", config.model, sample)
    return replace(snapshot, sample=sample)


class _Plan(NamedTuple):
    """What the monitor decided: the first moments to train on and to hold out, and whether only to calibrate anew."""

    train_start: datetime
    holdout_start: datetime | None
    recalibrate: bool


def _decided(config: ModelConfig, lake: Lake, champion: Serving | None, *, end: datetime) -> _Plan | None:
    """The plan of the newest decision; None if it does not ask for a training, or another version serves by now."""
    ends = lake.read(config.model, "decisions", columns=["window_end"])
    if champion is None or ends.empty:
        return None
    newest = ends["window_end"].max().to_pydatetime()
    last = Window(newest, newest + timedelta(microseconds=1))
    columns = ["window_end", "decision", "version", "evidence"]
    row = lake.read(config.model, "decisions", window=last, time="window_end", columns=columns).iloc[-1]
    if row["decision"] not in ("retrain", "recalibrate") or pd.isna(row["version"]) or int(row["version"]) != champion.version:
        return None
    try:
        plan = json.loads(row["evidence"])["plan"]
        start = as_utc(str(plan["train_start"]))
        newer = as_utc(str(plan["holdout_start"])) if plan.get("holdout_start") else None
    except (KeyError, TypeError, ValueError):
        log.warning("%s: the decision of %s does not say what to train on; the usual window is taken", config.model, newest)
        return None
    if start >= end:
        log.warning("%s: the decision of %s is about rows after %s; the usual window is taken", config.model, newest, end)
        return None
    log.info("%s: %s from %s on, as decided at %s", config.model, row["decision"], start, newest)
    return _Plan(start, newer, bool(plan.get("recalibrate")))


def _planned(plan: _Plan | None, recalibrated: Bundle | None, *, end: datetime) -> Window | None:
    """The window of a plan; a calibration is fitted on rows only that its model was not trained on."""
    if plan is None:
        return None
    trained = Window.from_extra(recalibrated.manifest["snapshot"]["train"]) if recalibrated else None
    start = max(plan.train_start, trained.end) if trained else plan.train_start
    if start >= end:
        raise NotEnoughData(f"no rows after {start}, until which the champion was trained, have outcomes yet (complete until {end})")
    return Window(start, end)


def _from_first_data(window: Window, config: ModelConfig) -> Window:
    """The window without what lies before `data.start`."""
    first = config.data.start
    return Window(first, window.end) if first and window.start < first < window.end else window


def _holdout_of(window: Window, config: ModelConfig) -> timedelta:
    """How much of a window is held out, in whole seconds."""
    length = window.end - window.start
    if length >= config.train.window:
        return config.train.holdout
    return min(config.train.holdout, timedelta(seconds=int((_MOST_HOLDOUT * length).total_seconds())))


def read_snapshot(config: ModelConfig, code: ModelCode, lake: Lake, snapshot: Snapshot) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the labelled rows of a snapshot, or its sample of them, sorted by time and id: (train, holdout).

    Raises:
        NotEnoughData: If either has none.
        ModelCodeError: If the model file is not the one that the snapshot was planned with.
    """
    if snapshot.recalibrates is None and code.sha256 != snapshot.code_digest:
        log.warning("%s: changed since the training was planned; the snapshot names the earlier file", code.path)
    rows = _draw(config, lake, snapshot)
    time = config.data.time
    keys = [time] if config.data.id is None else [time, config.data.id]
    rows = rows.sort_values(keys, kind="stable", ignore_index=True)
    rows[config.data.label] = labels_of(rows[config.data.label], config)
    newer = (rows[time] >= snapshot.holdout.start).to_numpy()
    train, holdout = rows[~newer].reset_index(drop=True), rows[newer].reset_index(drop=True)
    if snapshot.sample:
        log.info("%s: %d rows to train on and %d held out are drawn: %s", config.model, len(train), len(holdout), snapshot.sample)
    labels = train[config.data.label]
    ends = (labels.min(), labels.max()) if len(labels) else (None, None)
    _require_both(config, snapshot, Counted(len(labels), *ends), Counted(len(holdout)))
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


def _draw(config: ModelConfig, lake: Lake, snapshot: Snapshot) -> pd.DataFrame:
    """The rows of both windows, or of each an even sample."""
    whole, sample = Window(snapshot.train.start, snapshot.holdout.end), snapshot.sample
    parts = [(whole, None)] if sample is None else [(snapshot.train, sample.max_rows), (snapshot.holdout, sample.max_holdout)]
    drawn = [
        draw_rows(
            lake,
            config.model,
            "raw",
            _labelled(config, snapshot, window),
            most=most,
            key=[config.data.id] if config.data.id else [],
            version=snapshot.table_version,
        ).rows
        for window, most in parts
    ]
    return drawn[0] if len(drawn) == 1 else pd.concat(drawn, ignore_index=True)


def _labelled(config: ModelConfig, snapshot: Snapshot, window: Window) -> Chosen:
    return Chosen(window, config.data.time, known=config.data.label, without=snapshot.excluded)


def _count(config: ModelConfig, lake: Lake, snapshot: Snapshot, window: Window) -> Counted:
    return count_chosen(lake, config.model, "raw", _labelled(config, snapshot, window), version=snapshot.table_version)


def _require_both(config: ModelConfig, snapshot: Snapshot, train: Counted, holdout: Counted) -> None:
    for name, window, found in (("train", snapshot.train, train), ("holdout", snapshot.holdout, holdout)):
        if not found.rows:
            held = [str(held) for held in snapshot.excluded if held.start < window.end and window.start < held.end]
            without = f" outside of what is held back as bad data ({', '.join(held[-3:])})" if held else ""
            raise NotEnoughData(
                f"{config.model}: no row of the {name} window {window}{without} has a label in '{config.data.label}'; "
                f"ingest the window and its outcomes, {'release what is good after all, ' if held else ''}or give another window"
            )
    if config.is_classifier and train.least == train.greatest:
        raise NotEnoughData(
            f"{config.model}: the {train.rows} labelled rows of the train window {snapshot.train} have one class only, "
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
