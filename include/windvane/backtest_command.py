"""The command `windvane backtest`: what would each policy have cost on this history?"""

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from windvane.backtest_defaults import POLICIES, ROW_TIME, Span
from windvane.errors import ConfigError, DataError
from windvane.print_results import AsJson, print_table, say
from windvane.settings import Settings, load_settings
from windvane.windows import parse_duration

if TYPE_CHECKING:
    import pandas as pd

    from windvane.config import ModelConfig
    from windvane.model_code import ModelCode

commands = typer.Typer()

_FIRST_SHARE = 0.2
_WINDOWS = 40
_FEWEST_ROWS = 100
_SHOWN = 30

_Length = "a number of rows, or a length of time such as 30d, 12h"


@commands.command()
def backtest(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_CONFIG_PATH", help="A model of the project, or a config with <model>.py beside it.")
    ],
    data: Annotated[str | None, typer.Option(help="CSV, Parquet or Delta table; default: what the model has ingested.")] = None,
    first: Annotated[str | None, typer.Option(help=f"What version 1 is trained on: {_Length}; default: a fifth of the rows.")] = None,
    window: Annotated[str | None, typer.Option(help=f"One window: {_Length}; default: a fortieth of the rest.")] = None,
    label_delay: Annotated[str | None, typer.Option(help=f"When outcomes are known: {_Length}; default: data.label_delay.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help=f"{', '.join(POLICIES)}; may be repeated; default: all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default: train.seed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the picture, the page and the records; default: var/backtests/<model>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay history under policies: what each decided, what it served, and what it cost."""
    # threads that wait for each other cost more than they bring on rows this few
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from windvane.backtest import run_backtest
    from windvane.show_progress import Progress
    from windvane.walk_history import History

    settings = load_settings()
    config, code = load_model(settings, model)
    frame = read_history(settings, config, data)
    has_clock = History(config, frame).has_clock
    spans: dict[str, Any] = choose_spans(config, len(frame), has_clock, first=first, window=window, label_delay=label_delay)
    records, summary, now = [], {}, Text()
    with Progress(lambda: now, quiet=as_json):
        for record in run_backtest(config, code, frame, **spans, policies=policy or POLICIES, seed=seed):
            if as_json:
                print(json.dumps(record, allow_nan=False), flush=True)
            if "summary" in record:
                summary = record["summary"]
                continue
            records.append(record)
            now.plain = f"{record['policy']}: window {record['window'] + 1}, until {record['end']}"
    if as_json and out is None:
        return
    from windvane.report_backtest import report_backtest

    page = report_backtest(
        records, summary, directory=out or settings.var / "backtests" / config.model, title=f"Backtest of {config.model}"
    )
    if not as_json:
        _print(records, summary)
        say(f"The picture is {page.with_name('backtest.png')}")


def load_model(settings: Settings, model: str) -> tuple["ModelConfig", "ModelCode"]:
    """The config and the model file of a model of the project, or of a config at another place.

    Raises:
        ConfigError: If the config is missing or has problems.
        ModelCodeError: If the model file is missing or does not import.
    """
    from windvane.config import code_path
    from windvane.load_config import load_config, load_model_config
    from windvane.model_code import load_model_code

    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError([f"{path}: there is no such config; give the name of a model or the path of a YAML file"])
        config = load_config(path, stand_ins={"data": {"time": ROW_TIME}})
        return config, load_model_code(path.parent / f"{config.model}.py", config.model)
    config = load_model_config(settings.project, model)
    return config, load_model_code(code_path(settings.project, config.model), config.model)


def read_history(settings: Settings, config: "ModelConfig", data: str | None) -> "pd.DataFrame":
    """All rows of a file or a table; without either, what the model has ingested.

    Raises:
        DataError: If there is nothing, or it cannot be read.
    """
    import pandas as pd

    from windvane.lake import Lake

    if data is None:
        rows = Lake(settings.lake).read(config.model, "raw")
        if rows.empty:
            raise DataError(f"{config.model} has ingested nothing yet; give --data, or run {config.model}__ingest first")
        return rows
    path = Path(data)
    if "://" not in data and not path.exists():
        raise DataError(f"{data}: there is no such file or directory")
    try:
        if "://" in data or (path / "_delta_log").is_dir():
            from deltalake import DeltaTable

            table: pd.DataFrame = DeltaTable(data).to_pandas()
            return table
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix == ".parquet" or path.is_dir():
            return pd.read_parquet(path)
    except Exception as exc:
        raise DataError(f"{data}: cannot be read: {type(exc).__name__}: {str(exc)[:200]}") from exc
    raise DataError(f"{data}: allowed are a .csv file, a .parquet file or directory, and a Delta table")


def choose_spans(
    config: "ModelConfig", rows: int, has_clock: bool, *, first: str | None, window: str | None, label_delay: str | None
) -> dict[str, Span]:
    """What `run_backtest` needs, from what a person gave.

    Raises:
        ConfigError: If a length is neither a number of rows nor a length of time.
    """
    spans: dict[str, Span] = {
        "first": parse_span(first, "--first") if first else max(2, int(_FIRST_SHARE * rows)),
        "label_delay": parse_span(label_delay, "--label-delay") if label_delay else config.data.label_delay if has_clock else 0,
    }
    rest = rows - (spans["first"] if isinstance(spans["first"], int) else int(_FIRST_SHARE * rows))
    spans["window"] = parse_span(window, "--window") if window else max(rest // _WINDOWS, min(_FEWEST_ROWS, rest // 4), 1)
    return spans


def parse_span(text: str, name: str) -> Span:
    """A number of rows, or a length of time.

    Raises:
        ConfigError: If the text is neither.
    """
    if text.isdecimal():
        return int(text)
    try:
        length = parse_duration(text)
    except ValueError as exc:
        raise ConfigError([f"{name}: got '{text}', allowed is {_Length}"]) from exc
    if length == timedelta(0) and name != "--label-delay":
        raise ConfigError([f"{name}: got '{text}', it must be longer than nothing"])
    return length


def _print(records: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    from windvane.report_backtest import COLUMNS, decisions, told

    rows = decisions(records)
    if rows:
        print_table("decisions of windvane", ["window", "start", "decision", "promoted", "metric", "reason"], rows[:_SHOWN])
        if len(rows) > _SHOWN:
            say(f"... and {len(rows) - _SHOWN} more; --json has all")
    print_table("policies", ["policy", *COLUMNS], [[name, *(told(found[c]) for c in COLUMNS)] for name, found in summary.items()])
