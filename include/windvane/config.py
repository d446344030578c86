"""The config of a model: one class per section of the YAML, one description per field.

The reference page, `dags/configs/schema.json` and the error messages are made from this file.
"""

import hashlib
import math
import re
from datetime import UTC, date, datetime, timedelta
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from windvane.windows import parse_duration

MODEL_PATTERN = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
SUITE_PATTERN = r"^[a-z][a-z0-9_]*$"


class FieldsClash(ValueError):
    """Fields of a section that are right each and wrong together.

    Args:
        message: What is wrong, and the fix.
        fields: The names of the fields.
    """

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    return parse_duration(value if isinstance(value, str) else repr(value))


def shortest_duration(value: timedelta) -> str:
    """A time span as it is written in a config, such as 90d."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise ValueError(f"got {value!r} ({exc}), allowed is {_A_MOMENT}") from exc
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(f"got {value!r}, allowed is {_A_MOMENT}")


def _cron(value: Any) -> str:
    from croniter import croniter  # type: ignore[import-untyped]

    if isinstance(value, str) and (value in _CRON_NAMES or (len(value.split()) == 5 and croniter.is_valid(value))):
        return value
    allowed = f"a cron of five fields in UTC, such as '0 3 * * 1' for Mondays at 3:00, or one of {', '.join(_CRON_NAMES)}"
    raise ValueError(f"got {value!r}, allowed is {allowed}")


def _nothing(value: Any) -> tuple[()]:
    if value in (None, [], ()):
        return ()
    raise ValueError(f"got {value!r}, it must be empty in this version; remove it")


def _model_name(value: str) -> str:
    if iskeyword(value):
        raise ValueError(f"got {value!r}, which is a word of the Python language; choose another name")
    return value


_A_MOMENT = "a date such as 2013-01-01 or 2013-01-01T06:00:00Z"
_CRON_NAMES = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")

Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(shortest_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+[wdhms])+$"}),
]
Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date"})]
ModelName = Annotated[str, Field(pattern=MODEL_PATTERN, max_length=63), AfterValidator(_model_name)]
Cron = Annotated[
    str,
    BeforeValidator(_cron),
    WithJsonSchema({"type": "string", "pattern": r"^(@(hourly|daily|weekly|monthly|quarterly|yearly)|\S+ \S+ \S+ \S+ \S+)$"}),
]
Identifier = Annotated[str, Field(min_length=1, max_length=250)]


_PATH = "Path or glob, absolute or relative to the project; `{start:%Y-%m}` and `{end:%Y-%m}` stand for the window's ends."


class Part(BaseModel):
    """A part of the YAML: unknown fields are refused, values never change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Section(Part):
    """A part of the YAML that may have numbers, which are taken as they are written: none in quotes, no 1 for true."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        _refuse_conversion(value, cls.model_fields[str(info.field_name)].annotation)
        return value


def _refuse_conversion(value: Any, annotation: Any) -> None:
    """Refuse what pydantic would turn into a number or a truth value: texts, `1.0` for 1, 1 for true; and NaN and infinity."""
    if get_origin(annotation) is tuple:
        for item in value if isinstance(value, list) else ():
            _refuse_conversion(item, next(iter(get_args(annotation)), None))
        return
    kind = next((part for part in (annotation, *get_args(annotation)) if part in (bool, int, float)), None)
    if kind is None or value is None:
        return
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not right or (kind is not bool and (isinstance(value, bool) or not math.isfinite(value))):
        allowed = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        quoted = isinstance(value, str) and re.fullmatch(r"true|false|[-+]?[0-9.]+", value)
        raise ValueError(f"got {value!r}, allowed is {allowed}{', without quotes' if quoted else ''}")


class PythonSource(Part):
    """The function `read(window, connection)` of the model's Python file."""

    type: Literal["python"] = "python"
    connection: str | None = Field(None, description="Airflow connection id handed to `read` as a URI; default none.")


class CsvSource(Part):
    """CSV files; of each, the rows are read whose `data.time` lies in the run's window."""

    type: Literal["csv"]
    path: str = Field(description=_PATH)


class ParquetSource(Part):
    """Parquet files; of each, the rows are read whose `data.time` lies in the run's window."""

    type: Literal["parquet"]
    path: str = Field(description=_PATH)


class DeltaSource(Part):
    """A Delta table that somebody else writes."""

    type: Literal["delta"]
    uri: str = Field(description="Path or URI of the table; rows of the window are read by `data.time`.")


class SqlSource(Part):
    """A query on a database."""

    type: Literal["sql"]
    connection: str = Field(description="Airflow connection id of the database.")
    query: str = Field(description="SELECT with the bind parameters :window_start and :window_end.")


Source = Annotated[PythonSource | CsvSource | ParquetSource | DeltaSource | SqlSource, Field(discriminator="type")]


class FileWait(Section):
    """Wait until a file is there, without holding a worker slot."""

    type: Literal["file"]
    path: str = Field(description=_PATH)
    poke: Duration = Field(timedelta(seconds=5), description="Time between two looks; default 5s.")
    timeout: Duration = Field(timedelta(days=1), description="How long to wait before the run fails; default 1d.")


class Data(Section):
    """Where rows come from, what they mean, and how they are validated."""

    source: Source = Field(default_factory=PythonSource, description="Where rows are read from: python, csv, parquet, delta or sql.")
    schedule: Cron | None = Field(None, description="Cron in UTC: each run ingests the interval since the one before; default none.")
    start: Moment | None = Field(None, description="First moment of data, UTC; default none.")
    end: Moment | None = Field(None, description="End of data, UTC, exclusive; default none.")
    wait_for: FileWait | None = Field(None, description="What ingest waits for before it reads; default nothing.")
    id: Identifier | None = Field(None, description="Column that identifies a row; never a feature, outcomes join on it; default none.")
    time: Identifier = Field(description="Column with the row's own time, in UTC.")
    label: Identifier = Field(description="Column to predict; null where the outcome is not known.")
    label_delay: Duration = Field(timedelta(0), description="How long after `time` the outcome is complete; default 0d.")
    suite: Annotated[str, Field(pattern=SUITE_PATTERN)] | None = Field(
        None, description="Great Expectations suite: the name of a file in expectations/<model>/, without .json; default none."
    )
    on_invalid: Literal["quarantine_rows", "quarantine_batch"] = Field(
        "quarantine_rows", description="Keep the valid rows and quarantine the others, or refuse the whole batch; default quarantine_rows."
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> "Data":
        for one, other in (("time", "label"), ("id", "time"), ("id", "label")):
            name = getattr(self, one)
            if name == getattr(self, other):
                raise FieldsClash(f"{one} and {other} are both '{name}'; name a column of its own for each", one, other)
        return self

    @model_validator(mode="after")
    def _start_before_end(self) -> "Data":
        if self.start and self.end and self.start >= self.end:
            raise FieldsClash(f"end must be after start ({self.start:%Y-%m-%d}), got {self.end:%Y-%m-%d}", "end", "start")
        return self


class Search(Section):
    """Optuna's search over `search_space(trial)` of the model file."""

    trials: int = Field(20, ge=1, le=10_000, description="Largest number of trials; default 20.")
    timeout: Duration = Field(timedelta(minutes=10), description="Time after which no new trial starts; default 10m.")
    workers: int = Field(
        1, ge=1, le=64, description="Tasks that share the trials, each counting `timeout` for itself; default 1: within the task `train`."
    )


class Train(Section):
    """How a challenger is made."""

    window: Duration = Field(timedelta(days=90), description="How far back training reads, holdout included; default 90d.")
    holdout: Duration = Field(timedelta(days=14), description="The newest part of the window, kept for the gates; default 14d.")
    search: Search | None = Field(None, description="Hyperparameter search; default none: build_pipeline() with its own defaults.")
    max_rows: int = Field(
        2_000_000,
        ge=1_000,
        description="Most rows to fit on; of more an even sample is drawn, and of the holdout a quarter as many; default 2000000.",
    )
    seed: int = Field(7, ge=0, le=2**32 - 1, description="Seed of everything random; default 7.")

    @model_validator(mode="after")
    def _holdout_fits(self) -> "Train":
        if not timedelta(0) < self.holdout < self.window:
            got, window = shortest_duration(self.holdout), shortest_duration(self.window)
            raise FieldsClash(f"holdout must be longer than 0 and shorter than window ({window}), got {got}", "holdout", "window")
        return self


class VersusChampion(Section):
    """Paired bootstrap of challenger against champion on the same rows."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="One-sided confidence of the interval; default 0.95.")
    margin: float = Field(0.0, ge=-1, le=1, description="By how much the challenger must be better, in the metric's unit; default 0.")


class Slices(Section):
    """The challenger may not be much worse than the champion on any slice."""

    columns: tuple[Identifier, ...] = Field(min_length=1, description="Columns whose values make the slices.")
    max_drop: float = Field(0.05, ge=0, description="Largest loss against the champion on a slice, in the metric's unit; default 0.05.")
    min_rows: int = Field(200, ge=1, description="Slices with fewer rows are not judged; default 200.")


Measure = Literal[
    "accuracy_score_difference",
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "false_negative_rate_difference",
    "false_positive_rate_difference",
    "selection_rate_difference",
    "true_negative_rate_difference",
    "true_positive_rate_difference",
    "zero_one_loss_difference",
]


class Fairness(Section):
    """The challenger may not treat groups of people too differently."""

    sensitive: tuple[Identifier, ...] = Field(min_length=1, description="Columns whose values make the groups; each is judged on its own.")
    measure: Measure = Field("equalized_odds_difference", description="Fairlearn's measure; default equalized_odds_difference.")
    at_most: float = Field(ge=0, le=1, description="Largest difference between groups that is surely kept, such as 0.1.")
    min_rows: int = Field(50, ge=2, description="Groups with fewer rows are not judged; default 50.")


class Calibration(Section):
    """The challenger's probabilities must come true."""

    at_most: float = Field(gt=0, lt=1, description="Largest expected calibration error that is surely kept, such as 0.05.")


class Gates(Section):
    """What a challenger must pass before it may serve."""

    metric: Identifier | None = Field(None, description="scikit-learn scorer name; default roc_auc, roc_auc_ovr_weighted or r2 by task.")
    at_least: float | None = Field(None, description="Absolute floor of the metric; default none.")
    beat_baseline: bool = Field(True, description="The challenger must beat a dummy and a linear model; default true.")
    versus_champion: VersusChampion = Field(default_factory=VersusChampion, description="The test against the champion.")
    slices: Slices | None = Field(None, description="The test on slices; default none.")
    fairness: Fairness | None = Field(None, description="The test on groups of people, for classifiers; default none.")
    calibration: Calibration | None = Field(None, description="The test on probabilities, for classifiers; default none.")
    size_mb: float = Field(200, gt=0, description="Largest size of the bundle in MB; default 200.")
    min_rows: int = Field(200, ge=2, description="Fewest labelled holdout rows on which anything is promoted; default 200.")


class Approval(Section):
    """A person's word before a challenger is deployed."""

    required: bool = Field(False, description="Whether a person must approve; default false.")
    approvers: tuple[Identifier, ...] = Field(
        (),
        description="Ids of the users who may answer, nobody else, also no admin: names with Airflow's simple users, numbers in quotes "
        "with FAB (`airflow users list`); default: everybody who may edit the run.",
    )
    timeout: Duration = Field(timedelta(hours=24), description="How long to wait; no answer within it never promotes; default 24h.")


DeployTarget = Literal["process", "docker", "kubernetes"]


class Limits(Section):
    """Limits of one serving container."""

    memory: Annotated[str, Field(pattern=r"^[0-9]+[kmg]$")] = Field("512m", description="Memory, in Docker's notation; default 512m.")
    cpus: float = Field(1.0, gt=0, le=256, description="CPU cores; default 1.0.")


class Rollout(Section):
    """How traffic moves to a new version; target process holds one version and has no steps."""

    shadow: int = Field(500, ge=0, description="Newest logged rows replayed to candidate and champion before traffic moves; default 500.")
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (10, 50, 100), description="Percent of traffic, rising to 100 (not process); default [10, 50, 100]."
    )
    bake: Duration = Field(timedelta(seconds=30), description="How long each step is watched (not process); default 30s.")
    min_requests: int = Field(
        200,
        ge=0,
        description="Requests that a step must see, replayed rows counted where live ones are fewer (not process); default 200.",
    )

    @model_validator(mode="after")
    def _steps_rise(self) -> "Rollout":
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 100:
            raise ValueError(f"steps must rise and end at 100, got {list(self.steps)}")
        return self


class Deploy(Section):
    """Where and how the champion serves."""

    target: DeployTarget = Field(
        "process", description="Server process, Docker containers behind HAProxy, or Kubernetes behind a Gateway; default process."
    )
    port: int = Field(
        8100, ge=1, le=65535, description="Port on 127.0.0.1 where the model answers (not kubernetes); unique among them; default 8100."
    )
    rollout: Rollout = Field(default_factory=Rollout, description="How traffic moves to a new version.")
    replicas: int = Field(1, ge=1, le=64, description="Containers per version (not process); default 1.")
    limits: Limits = Field(default_factory=Limits, description="Limits of one container (not process).")


class Monitor(Section):
    """How the champion is watched."""

    schedule: Cron | None = Field(None, description="Cron in UTC; default: after every <model>/data event.")
    false_alarms_per_90d: float = Field(1, gt=0, description="False alarms that drift and harm together may raise; default 1.")
    min_rows: int = Field(500, ge=1, description="Windows with fewer rows end in `wait`; default 500.")


class Retrain(Section):
    """What starts a training."""

    schedule: Cron | None = Field(None, description="Cron in UTC: scheduled retraining; default none.")
    on: tuple[Literal["decision", "schedule", "data"], ...] = Field(
        ("decision",), description="decision: the monitor says `retrain`; data: every new window; schedule: the cron; default [decision]."
    )
    cooldown: Duration = Field(timedelta(0), description="Shortest data time between two trainings decided by the monitor; default 0d.")
    per_day: int = Field(4, ge=1, description="Most trainings decided by the monitor within a day of data time; default 4.")

    @model_validator(mode="after")
    def _scheduled(self) -> "Retrain":
        if "schedule" in self.on and self.schedule is None:
            raise FieldsClash("on has 'schedule', but retrain.schedule is not set; give a cron such as '0 3 * * 1'", "on", "schedule")
        if self.schedule is not None and "schedule" not in self.on:
            wanted = ", ".join([*self.on, "schedule"])
            raise FieldsClash(
                f"schedule is set, but on does not have 'schedule'; write on: [{wanted}] or remove schedule", "schedule", "on"
            )
        return self


class ModelConfig(Section):
    """One model: the whole of `dags/configs/<model>.yaml`."""

    model: ModelName = Field(description="Name of the model, of this file and of include/models/<model>.py.")
    description: str = Field("", description="What the model predicts, for people; Markdown.")
    owner: Identifier = Field("windvane", description="Who to ask; default windvane.")
    tags: tuple[Identifier, ...] = Field((), description="Tags of the DAGs, besides the model's name; default none.")
    task: Literal["binary_classification", "multiclass_classification", "regression"] = Field(description="What kind of prediction it is.")
    data: Data = Field(description="Where rows come from, what they mean, and how they are validated.")
    train: Train = Field(default_factory=Train, description="How a challenger is made.")
    gates: Gates = Field(default_factory=Gates, description="What a challenger must pass before it may serve.")
    approval: Approval = Field(default_factory=Approval, description="A person's word before a challenger is deployed.")
    deploy: Deploy = Field(default_factory=Deploy, description="Where and how the champion serves.")
    monitor: Monitor = Field(default_factory=Monitor, description="How the champion is watched.")
    retrain: Retrain = Field(default_factory=Retrain, description="What starts a training.")
    alerts: Annotated[tuple[()], BeforeValidator(_nothing)] = Field((), description="Reserved: must be empty in this version.")

    @property
    def metric(self) -> str:
        """The scikit-learn scorer that gates and decisions use."""
        defaults = {"binary_classification": "roc_auc", "multiclass_classification": "roc_auc_ovr_weighted", "regression": "r2"}
        return self.gates.metric or defaults[self.task]

    @property
    def is_classifier(self) -> bool:
        """Whether the model predicts classes."""
        return self.task != "regression"

    def digest(self) -> str:
        """SHA-256 of everything in the config that can change a trained model."""
        used: Any = {"model": True, "task": True, "data": {"id", "time", "label", "label_delay"}, "train": True}
        # how many search decides how long it takes, not what is searched; and where rows are too many, the snapshot names the sample
        made_from = self.model_dump_json(include=used, exclude={"train": {"search": {"workers"}, "max_rows": True}})
        return hashlib.sha256(made_from.encode()).hexdigest()


def config_path(project: Path, model: str) -> Path:
    """Where the model's YAML is."""
    return project / "dags" / "configs" / f"{model}.yaml"


def code_path(project: Path, model: str) -> Path:
    """Where the model's Python file is."""
    return project / "include" / "models" / f"{model}.py"


def suite_path(project: Path, model: str, suite: str) -> Path:
    """Where the model's expectation suite is."""
    return project / "expectations" / model / f"{suite}.json"
