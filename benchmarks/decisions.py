"""How well Windvane decides: streams with known drift, walked through by `windvane backtest`'s own code, against the goals.

    python benchmarks/decisions.py [--quick] [--only abrupt,covariate] [--streams 100] [--jobs 2] [--data DIRECTORY] [--cases FILE]

The streams are those of `tests/streams.py`; `--data` adds the STAGGER streams and the bike demand where the directory has them. A wrong
decision is a case: `--cases` writes them all, one JSON object per line, with the stream's seed, so that any can be drawn again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from streams import BROKEN_COLUMNS, BROKEN_LABELS, make_stream  # noqa: E402

WINDVANE = ("windvane",)
ALL = ("windvane", "never", "every-window", "weekly", "drift-psi", "oracle")
TRAININGS = ("retrain", "recalibrate")
REPAIRABLE = ("abrupt", "gradual", "recurring", "base_rate", "noise")
_MINUTE = 60.0


@dataclass(frozen=True)
class Job:
    """One walk over one stream.

    Attributes:
        goal: Name of the goal that it counts for.
        options: Of `make_stream`; of real data: its file.
        delay: Windows after which outcomes are known.
    """

    goal: str
    kind: str
    seed: int
    policies: tuple[str, ...] = WINDVANE
    delay: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What draws the stream again."""
        told = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"make_stream({self.kind!r}, seed={self.seed}{told})" + (f", outcomes {self.delay} windows late" if self.delay else "")


@dataclass(frozen=True)
class Walk:
    """What came out of a job; `records` are those of Windvane without its evidence.

    Attributes:
        odd: Numbers of the windows with odd rows.
        onset: Windows from the first one until the change, such as 7.4.
        error: What ended it; empty when it came through.
    """

    job: Job
    records: list[dict[str, Any]]
    summary: dict[str, dict[str, Any]]
    odd: range
    onset: float | None
    detail: str
    seconds: float
    error: str = ""

    def windows(self, *decisions: str) -> list[int]:
        """Numbers of the windows that were decided so."""
        return [r["window"] for r in self.records if r["decision"] in decisions]

    @property
    def clear(self) -> int:
        """Number of the first window of which at least half is odd."""
        return round(self.onset or 0)

    @property
    def alarms(self) -> int:
        """Windows with an alarm."""
        return sum(r["alarm"] for r in self.records)

    def within(self, windows: float, *decisions: str) -> bool:
        """Whether one of the decisions came, and came at the end of one of the first windows that had odd rows."""
        first = self.odd[0] + self.job.delay
        return any(first <= w < first + windows for w in self.windows(*decisions))


def walk(job: Job) -> Walk:
    """Draw the stream, walk over it, and keep what the goals need."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    try:
        return _walk(job, began)
    except Exception as exc:  # noqa: BLE001 - one stream must not end the others; it is printed and makes the exit code 1
        told = f"{type(exc).__name__}: {exc} [{traceback.extract_tb(exc.__traceback__)[-1]}]"
        return Walk(job, [], {}, range(1), None, "", time.perf_counter() - began, told)


def _walk(job: Job, began: float) -> Walk:
    found, summary, odd, onset, detail = replay(job)
    records = [_shortened(record) for record in found if record["policy"] == "windvane"]
    return Walk(job, records, summary, odd, onset, detail, time.perf_counter() - began)


def replay(job: Job) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], range, float | None, str]:
    """Records, summary, windows with odd rows, the change in windows, what is odd."""
    from windvane.backtest import run_backtest
    from windvane.backtest_defaults import ROW_TIME
    from windvane.load_config import load_config
    from windvane.model_code import load_model_code

    with tempfile.TemporaryDirectory() as directory:
        if "file" in job.options:
            path, frame, first, window = real_stream(job, Path(directory))
            odd, onset, detail = range(0), None, ""
        else:
            stream = make_stream(job.kind, seed=job.seed, **job.options)
            path, frame, first, window = stream.write(Path(directory)), stream.frame, stream.first, stream.window
            onset = None if stream.onset is None else (stream.onset - stream.first) / stream.window
            odd, detail = stream.odd_windows, stream.detail
        config = load_config(path, stand_ins={"data": {"time": ROW_TIME}})
        code = load_model_code(path.parent / f"{config.model}.py", config.model)
        found = list(run_backtest(config, code, frame, first=first, window=window, label_delay=job.delay * window, policies=job.policies))
    return found[:-1], found[-1]["summary"], odd, onset, detail


def _shortened(record: dict[str, Any]) -> dict[str, Any]:
    evidence = record["evidence"]
    kept = {
        name: evidence.get(name) for name in ("bad_inputs", "drifted", "moved", "drift_seen", "harm", "harm_seen", "trial", "alert", "plan")
    }
    gates = [gate for gate in evidence.get("gates") or () if not gate.get("passed", True)]
    return record | {"evidence": {name: value for name, value in (kept | {"gates": gates}).items() if value}}


# -- real data ------------------------------------------------------------------------------------------------------------------------

_REAL = """\
from sklearn.compose import make_column_transformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from sklearn.ensemble import HistGradientBoosting{kind}


def build_pipeline(params):
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((codes, {texts}), ("passthrough", {numbers}), remainder="drop")
    return Pipeline([("columns", columns), ("model", HistGradientBoosting{kind}(max_iter=60, max_leaf_nodes=16, min_samples_leaf=30))])
"""


def real_jobs(data: Path | None) -> Iterator[Job]:
    """One job for each of the known files that the directory has."""
    if data is None:
        return
    for file, kind in (
        ("streams/stagger_0120_abrupto.parquet", "stagger"),
        ("streams/stagger_2102_abrupto.parquet", "stagger"),
        ("streams/stagger_0120_gradual.parquet", "stagger"),
        ("streams/stagger_2102_gradual.parquet", "stagger"),
        ("streams/weather_noaa.parquet", "weather"),
        ("bike_sharing.parquet", "bike"),
    ):
        if (data / file).is_file():
            yield Job("loss", kind, 0, ALL, options={"file": str(data / file)})


def real_stream(job: Job, directory: Path) -> tuple[Path, pd.DataFrame, int, int]:
    """Config, rows, first rows and window of a file of real data."""
    frame = pd.read_parquet(job.options["file"])
    label, task, first, window = {
        "stagger": ("class", "binary_classification", 3_000, 500),
        "weather": ("label", "binary_classification", 3_000, 365),
        "bike": ("count", "regression", 24 * 180, 24 * 7),
    }[job.kind]
    clock = ""
    if job.kind == "bike":
        frame, clock = frame.drop(columns=["instant", "dateday", "casual", "registered", "year"]), "\n  time: timestamp"
    else:
        frame = frame.sort_values("t").drop(columns="t")
    inputs = [c for c in frame.columns if c not in (label, "timestamp")]
    numbers = [c for c in inputs if pd.api.types.is_numeric_dtype(frame[c].dtype)]
    texts = [c for c in inputs if c not in numbers]
    name = f"real_{job.kind}"
    path = directory / f"{name}.yaml"
    path.write_text(
        f"model: {name}\ntask: {task}\ndata:\n  source: {{type: python}}\n  label: {label}{clock}\nmonitor: {{min_rows: 160}}\n"
    )
    kind = "Regressor" if task == "regression" else "Classifier"
    (directory / f"{name}.py").write_text(_REAL.format(kind=kind, texts=texts, numbers=numbers))
    return path, frame, first, window


# -- goals ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A goal and its figure; `met` is None where the figure has no goal."""

    goal: str
    figure: str
    met: bool | None


Wrong = list[tuple[Walk, str, list[int]]]
"""Walks with a wrong decision: why it is wrong, and the windows to look at."""


def judge_undrifted(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    for rows in sorted({w.job.options.get("window", 1_000) for w in walks}):
        for kind in ("undrifted", "swings"):
            some = [w for w in walks if w.job.options.get("window", 1_000) == rows and w.job.kind == kind]
            windows = sum(len(w.records) for w in some)
            if not windows:
                continue
            retrains, alarms = (sum(count(w) for w in some) for count in (lambda w: len(w.windows(*TRAININGS)), lambda w: w.alarms))
            fixed = sum(len(w.windows("fix_data")) for w in some)
            for name, count in (("trainings", retrains), ("alarms", alarms), ("fix_data", fixed)):
                per = 90 * count / windows
                yield Finding(f"{kind}, {rows} rows a window: {name} per 90 windows <= 1", f"{per:.2f} ({count} in {windows})", per <= 1)
    for w in walks:
        _case(wrong, w, "a training although nothing changed", w.windows(*TRAININGS))
        _case(wrong, w, "an alarm although nothing changed", [r["window"] for r in w.records if r["alarm"]])
        _case(wrong, w, "bad data although nothing is wrong", w.windows("fix_data"))


def judge_abrupt(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    yield from _judge_decided(walks, wrong, 2, "abrupt", share=0.95)


def judge_gradual(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    yield from _judge_decided(walks, wrong, 4, "gradual", share=0.95)


def _judge_decided(walks: Sequence[Walk], wrong: Wrong, windows: int, name: str, *, share: float) -> Iterator[Finding]:
    for title, some in _groups(walks):
        right = [w.within(windows, "retrain") for w in some]
        yield Finding(f"{name}, {title}: retrain within {windows} windows in >= {share:.0%}", _share(right), np.mean(right) >= share)
        clear = [bool([n for n in w.windows("retrain") if w.odd[0] <= n < w.clear + w.job.delay + windows]) for w in some]
        yield Finding(f"{name}, {title}: the same, counted from the first window of which half is odd", _share(clear), None)
        early = [bool([n for n in w.windows(*TRAININGS) if n < w.odd[0]]) for w in some]
        yield Finding(f"{name}, {title}: trained before the change", _share(early), None)
        repaired = [any(r["promoted"] for r in w.records if w.odd[0] <= r["window"] < w.odd[0] + w.job.delay + windows + 2) for w in some]
        yield Finding(f"{name}, {title}: promoted within {windows + 2} windows", _share(repaired), None)
        for w, ok in zip(some, right, strict=True):
            if not ok:
                _case(wrong, w, f"no retrain within {windows} windows", list(w.odd[: windows + w.job.delay + 1]))


def judge_covariate(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    for title, some in _groups(walks):
        right = [not w.windows("retrain") for w in some]
        yield Finding(f"harmless covariate shift, {title}: no retrain in >= 95%", _share(right), np.mean(right) >= 0.95)
        for decision in ("recalibrate", "fix_data"):
            told = [bool(w.windows(decision)) for w in some]
            yield Finding(f"harmless covariate shift, {title}: {decision}", _share(told), None)
            for w in some:
                _case(wrong, w, f"{decision} although the shift is harmless", w.windows(decision))
        for w in some:
            _case(wrong, w, "retrain although the shift is harmless", w.windows("retrain"))


def judge_broken(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    for title, some in [*_groups(walks), *(((f"all {n} streams", walks),) if (n := len(walks)) else ())]:
        fixed = [all(n in w.windows("fix_data") for n in w.odd) for w in some]
        trained = [not [n for n in w.windows(*TRAININGS) if n >= w.odd[0]] for w in some]
        both = [a and b for a, b in zip(fixed, trained, strict=True)]
        goal = f"broken {title}: fix_data in every such window, and no training, in >= 95%"
        yield Finding(goal, f"{_share(both)} (fix_data {_share(fixed)}, no training {_share(trained)})", np.mean(both) >= 0.95)
    for w in walks:
        _case(wrong, w, "no fix_data although the data is broken", [n for n in w.odd if n not in w.windows("fix_data")])
        _case(wrong, w, "a training because of broken data", [n for n in w.windows(*TRAININGS) if n >= w.odd[0]])
        _case(wrong, w, "fix_data although the data is whole", [n for n in w.windows("fix_data") if n not in w.odd])


def judge_others(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    """What the issue describes without a figure."""
    for title, some in _groups(walks):
        kind = some[0].job.kind
        if kind == "block":
            right = [not w.windows(*TRAININGS) for w in some]
            yield Finding(f"passing block, {title}: no training in >= 95%", _share(right), np.mean(right) >= 0.95)
            for w in some:
                _case(wrong, w, "a training because of a passing block", w.windows(*TRAININGS))
        if kind == "base_rate":
            right = [w.within(3, "recalibrate") and not w.windows("retrain") for w in some]
            soon = [w.within(3, "recalibrate") for w in some]
            figure = f"{_share(right)} (recalibrate {_share(soon)})"
            yield Finding(f"base rate, {title}: recalibrate within 3 windows, no retrain, in >= 95%", figure, np.mean(right) >= 0.95)
            for w, ok in zip(some, right, strict=True):
                if not ok:
                    _case(wrong, w, "a new base rate was not met by recalibrate alone", [*w.odd[:3], *w.windows("retrain")])
        if kind in ("noise", "ambiguous"):
            retrains = [len(w.windows("retrain")) for w in some]
            told = [sum(bool(r["evidence"].get("alert")) for r in w.records if r["decision"] == "ignore") for w in some]
            right = [n == 0 for n in retrains]
            figure = f"{_share(right)} (alerts per stream {np.mean(told):.2f}, at most {max(told)})"
            yield Finding(f"irreparable ({kind}), {title}: no retrain in >= 95%", figure, np.mean(right) >= 0.95)
            once = [count <= 1 for count in told]
            yield Finding(f"irreparable ({kind}), {title}: told at most once in >= 95%", _share(once), np.mean(once) >= 0.95)
            for w, ok in zip(some, right, strict=True):
                if not ok:
                    _case(wrong, w, "retrain although nothing is to be learned", w.windows("retrain"))


def judge_loss(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    rows: dict[str, list[Walk]] = {}
    for w in walks:
        rows.setdefault(w.job.kind, []).append(w)
    # each stream counts as much as any other: its losses are divided by those of never retraining
    ratios, trainings = {policy: [] for policy in ALL}, Counter()  # type: ignore[var-annotated]
    print(f"\n{'mean loss, trainings':<34}" + "".join(f"{policy:>18}" for policy in ALL))
    for kind, some in rows.items():
        parts = []
        for policy in ALL:
            loss = np.mean([w.summary[policy]["mean_loss"] for w in some])
            count = np.mean([w.summary[policy]["trainings"] for w in some])
            parts.append(f"{loss:>12.4f}{count:>6.1f}")
            ratios[policy] += [w.summary[policy]["mean_loss"] / w.summary["never"]["mean_loss"] for w in some]
            trainings[policy] += sum(w.summary[policy]["trainings"] for w in some)
        print(f"{kind + f' ({len(some)})':<34}" + "".join(parts))
    mean = {policy: float(np.mean(values)) for policy, values in ratios.items()}
    print(f"{'relative to never, trainings':<34}" + "".join(f"{mean[p]:>12.4f}{trainings[p]:>6}" for p in ALL) + "\n")
    best = min(("every-window", "weekly"), key=lambda policy: mean[policy])
    excess = mean["windvane"] / mean[best] - 1
    yield Finding(f"mean loss <= 3% above {best}, the better of every-window and weekly", f"{excess:+.2%}", excess <= 0.03)
    share = trainings["windvane"] / max(1, trainings[best])
    yield Finding(f"trainings <= a third of those of {best}", f"{trainings['windvane']} of {trainings[best]} ({share:.0%})", share <= 1 / 3)
    for policy in ("never", "drift-psi"):
        yield Finding(f"mean loss below {policy}", f"{mean['windvane']:.4f} against {mean[policy]:.4f}", mean["windvane"] < mean[policy])
        above = []
        for w in walks:
            own, other = w.summary["windvane"]["mean_loss"], w.summary[policy]["mean_loss"]
            fewer = policy == "never" or w.summary["windvane"]["trainings"] >= w.summary[policy]["trainings"]
            if fewer and own > 1.002 * other:
                above.append(f"{w.job.kind} {w.job.seed}: {own / other - 1:+.1%}")
                _case(wrong, w, f"loss {own:.4f}, under {policy} {other:.4f}", w.windows(*TRAININGS))
        figure = f"above in {len(above)} of {len(walks)}" + (f" ({'; '.join(above[:4])})" if above else "")
        yield Finding(f"never more than 0.2% above {policy} with as many trainings", figure, not above)
    psi = trainings["drift-psi"]
    yield Finding("trainings of drift-psi, to compare", f"{trainings['windvane']} against {psi}", None)
    for w in walks:
        own, others = w.summary["windvane"]["mean_loss"], min(w.summary[p]["mean_loss"] for p in ("every-window", "weekly"))
        if own > 1.03 * others:
            _case(wrong, w, f"loss {own:.4f}, {own / others - 1:+.1%} above the better schedule", w.windows(*TRAININGS))


def judge_speed(walks: Sequence[Walk], wrong: Wrong) -> Iterator[Finding]:
    for w in walks:
        took = w.summary["windvane"]["seconds"]
        yield Finding(
            f"backtest of {len(w.records)} windows of 1,000 rows and 10 inputs <= 60 s", f"{took:.1f} s with its fits", took <= _MINUTE
        )


JUDGES: dict[str, Callable[[Sequence[Walk], Wrong], Iterator[Finding]]] = {
    "undrifted": judge_undrifted,
    "abrupt": judge_abrupt,
    "gradual": judge_gradual,
    "covariate": judge_covariate,
    "columns": judge_broken,
    "labels": judge_broken,
    "others": judge_others,
    "loss": judge_loss,
    "speed": judge_speed,
}


def make_jobs(streams: int, data: Path | None) -> Iterator[Job]:
    """All jobs: so many streams for each goal; fewer where one takes long."""
    few, fewer = max(2, streams // 4), max(1, streams // 12)
    worlds: tuple[Any, ...] = ("linear", "steps")
    for kind in ("undrifted", "swings"):
        for world in worlds:
            for rows, count in ((500, few), (1_000, few), (5_000, fewer)):
                for seed in range(count):
                    yield Job("undrifted", kind, seed, options={"window": rows, "windows": 90, "world": world})
    for seed in range(max(1, fewer // 4)):
        yield Job("undrifted", "undrifted", seed, options={"window": 50_000, "windows": 45, "first": 100_000})
    for kind in ("abrupt", "gradual", "covariate"):
        for world in worlds:
            for seed in range(streams // 2):
                yield Job(kind, kind, seed, options={"world": world, "windows": 20})
        for task in ("regression", "multiclass_classification"):
            for seed in range(few):
                yield Job(kind, kind, seed, options={"task": task, "windows": 20, "world": worlds[seed % 4 // 2]})
    for seed in range(few):
        yield Job("abrupt", "abrupt", seed, delay=2, options={"windows": 20})
        yield Job("abrupt", "abrupt", seed, options={"window": 500, "windows": 20})
    for goal, kinds in (("columns", BROKEN_COLUMNS), ("labels", BROKEN_LABELS)):
        for kind in kinds:
            for seed in range(few):
                yield Job(goal, kind, seed, options={"windows": 16, "window": (500, 1_000)[seed % 2], "world": worlds[seed % 4 // 2]})
    for seed in range(few):
        yield Job("labels", "labels_low", seed, options={"windows": 16, "task": ("regression", "multiclass_classification")[seed % 2]})
    for kind in ("block", "base_rate", "noise"):
        for world in worlds:
            for seed in range(few):
                yield Job("others", kind, seed, options={"windows": 24, "world": world})
    for seed in range(few):
        # trees learn more from more rows anywhere, so that only a linear model is as good as it gets
        yield Job("others", "ambiguous", seed, options={"windows": 24})
        yield Job("others", "base_rate", seed, options={"windows": 24, "task": "regression"})
        yield Job("others", "noise", seed, options={"windows": 24, "task": "regression"})
    for kind in ("undrifted", "abrupt", "gradual", "recurring", "covariate", "base_rate", "noise", "block"):
        for seed in range(max(2, fewer)):
            yield Job("loss", kind, seed, ALL, options={"windows": 40, "world": worlds[seed % 4 // 2]})
    yield from real_jobs(data)
    yield Job("speed", "undrifted", 0, options={"windows": 100})


def _groups(walks: Sequence[Walk]) -> list[tuple[str, list[Walk]]]:
    """Walks by what was drawn, each with its title."""
    groups: dict[str, list[Walk]] = {}
    for w in walks:
        options = w.job.options
        broken = w.job.kind if w.job.kind in (*BROKEN_COLUMNS, *BROKEN_LABELS) else ""
        world = "" if broken or options.get("task", "binary_classification") != "binary_classification" else options.get("world", "linear")
        task = options.get("task", "").split("_")[0]
        rows = f"{options['window']} rows" if "window" in options and not broken else ""
        late = f"outcomes {w.job.delay} windows late" if w.job.delay else ""
        base = w.job.kind if w.job.goal == "others" else ""
        groups.setdefault(" ".join(p for p in (base, broken, task, world, rows, late) if p), []).append(w)
    return list(groups.items())


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


def _case(wrong: Wrong, walked: Walk, why: str, windows: Sequence[int]) -> None:
    if windows:
        wrong.append((walked, why, list(windows)))


def run(jobs: Sequence[Job], processes: int) -> Iterator[Walk]:
    """Walk all, in one or two processes; how far it is goes to standard error."""
    began = time.perf_counter()
    with ProcessPoolExecutor(processes) as pool:
        for number, walked in enumerate(pool.map(walk, jobs), 1):
            if number % 20 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} streams, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            yield walked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few streams for each goal")
    parser.add_argument("--streams", type=int, default=100, help="streams for each goal; default 100")
    parser.add_argument("--only", default="", help=f"goals or kinds, with commas between; goals are {', '.join(JUDGES)}")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="processes; default 2")
    parser.add_argument("--data", type=Path, help="directory with real streams")
    parser.add_argument("--cases", type=Path, help="where the wrong decisions go, one JSON object per line")
    parser.add_argument("--shown", type=int, default=12, help="wrong decisions that are printed; default 12")
    parser.add_argument("--picture", type=Path, help="draw the story of docs/decisions.md into a file, and do nothing else")
    given = parser.parse_args()
    if given.picture:
        draw_story(given.picture)
        return
    asked = {name for name in given.only.split(",") if name}
    jobs = [
        j
        for j in make_jobs(8 if given.quick else given.streams, given.data)
        if not asked or j.goal in asked or (j.goal != "loss" and j.kind in asked)
    ]
    walks = list(run(jobs, given.jobs))
    findings: list[Finding] = []
    wrong: Wrong = []
    for goal, judge in JUDGES.items():
        some = [w for w in walks if w.job.goal == goal and not w.error]
        if some:
            findings += judge(some, wrong)
    for w in walks:
        if w.error:
            print(f"ERROR {w.job.title}: {w.error}")
    for found in findings:
        print(f"{found.goal:<88} {found.figure:<58} {'' if found.met is None else 'met' if found.met else 'NOT met'}")
    print(f"{sum(w.seconds for w in walks):.0f} s for {len(walks)} streams; {len(wrong)} cases of wrong decisions")
    print_cases(wrong[: given.shown])
    if given.cases:
        with given.cases.open("w") as file:
            for walked, why, windows in wrong:
                records = [r for r in walked.records if r["window"] in windows]
                file.write(
                    json.dumps({"stream": walked.job.title, "detail": walked.detail, "onset": walked.onset, "why": why, "records": records})
                )
                file.write("\n")
    sys.exit(1 if any(found.met is False for found in findings) or any(w.error for w in walks) else 0)


def draw_story(path: Path) -> None:
    """The picture of the docs, and its decisions as text."""
    from windvane.plot_backtest import plot_backtest

    job = Job("story", "story", 0, ("windvane", "never", "every-window", "weekly", "drift-psi"), options={"windows": 40})
    records, summary = replay(job)[:2]
    plot_backtest(
        records,
        path,
        title="A shift that harms nobody (6), lost values (13), an odd half day (19), fewer positives (23), a new concept (31)",
    )
    for record in records:
        if record["policy"] == "windvane" and record["decision"] != "ok":
            print(f"window {record['window']}: {record['decision']}: {record['reason']}")
    for policy, told in summary.items():
        print(f"{policy:<14}{told['mean_loss']:.4f} mean loss, {told['trainings']} trainings, {told['alarms']} alarms")


def print_cases(wrong: Wrong) -> None:
    """The cases as text: what was decided in the windows in question, and why."""
    for walked, why, windows in wrong:
        onset = "" if walked.onset is None else f", changes at window {walked.onset:.2f}"
        print(f"\nCASE {walked.job.title} ({walked.detail}{onset}): {why}")
        for record in [r for r in walked.records if r["window"] in windows][:5]:
            print(f"  window {record['window']}: {record['decision']}: {record['reason'][:400]}")
            refused = [gate.get("reason") for gate in record["evidence"].get("gates", ())]
            if refused:
                print(f"    refused: {refused}")


if __name__ == "__main__":
    main()
