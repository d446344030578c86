"""The one place where Windvane and Airflow meet: a config becomes its five DAGs."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    AssetAlias,
    AssetOrTimeSchedule,
    BaseOperator,
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    TriggerRule,
    chain,
)
from airflow.sdk.definitions.param import ParamsDict

from windvane.config import ModelConfig
from windvane.errors import ConfigError, WindvaneError
from windvane.load_config import list_configs, load_config
from windvane_airflow import assets
from windvane_airflow.make_pools import TRAIN_POOL
from windvane_airflow.operators.approve_release import ApproveReleaseOperator
from windvane_airflow.operators.commit_data import CommitDataOperator
from windvane_airflow.operators.config_error import ConfigErrorOperator
from windvane_airflow.operators.deployment import (
    PackageReleaseOperator,
    PromoteReleaseOperator,
    RehearseReleaseOperator,
    RollOutReleaseOperator,
)
from windvane_airflow.operators.extract_data import ExtractDataOperator
from windvane_airflow.operators.monitor_model import CollectPredictionsOperator, MonitorModelOperator
from windvane_airflow.operators.score_window import ScoreWindowOperator
from windvane_airflow.operators.train_model import (
    GateChallengerOperator,
    PlanTrainingOperator,
    RegisterModelOperator,
    SearchParamsOperator,
    TrainModelOperator,
)
from windvane_airflow.operators.validate_data import ValidateDataOperator
from windvane_airflow.sensors.wait_for_file import WaitForFileSensor

# scheduled DAGs need some first day; without a first day of data it is one before anybody used this
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

# of Celery: workers with room for a training, and the one that reaches the Docker engine, the endpoints and their request logs
TRAIN_QUEUE, DEPLOY_QUEUE = "train", "deploy"


def build_dags(project: Path, *, only: str | None = None) -> dict[str, DAG]:
    """Build the DAGs of all configs of a project.

    Args:
        project: Directory that holds `dags/configs`, `expectations` and `include/models`.
        only: Id of the one DAG that is needed; others are not even read. A task process passes its own.

    Returns:
        The DAGs by id. A config with problems becomes `<model>__config_error` and hides nothing else.
    """
    dags: dict[str, DAG] = {}
    for path in list_configs(project, dag_id=only):
        try:
            config = load_config(path)
        except ConfigError as exc:
            built = [_config_error_dag(path, exc)]
        else:
            wanted = {f"{config.model}__{kind}": build for kind, build in _KINDS.items()}
            built = [build(config, project) for dag_id, build in wanted.items() if only in (None, dag_id)]
        dags.update({dag.dag_id: dag for dag in built})
    return dags


def _ingest(config: ModelConfig, project: Path) -> DAG:
    """Read a window of rows, validate it, commit it: one Delta commit, one `<model>/data` event."""
    schedule = CronDataIntervalTimetable(config.data.schedule, timezone="UTC") if config.data.schedule else None
    with _dag(config, "ingest", _ingest, schedule=schedule, params=_window_params("to ingest"), **_range(config)) as dag:
        common = _common(config, project)
        extract = ExtractDataOperator(task_id="extract", **common)
        validate = ValidateDataOperator(task_id="validate", staged=extract.output, **common)
        commit = CommitDataOperator(task_id="commit", validation=validate.output, outlets=[assets.data(config.model)], **common)
        chain(extract, validate, commit)
        if config.data.wait_for:
            chain(WaitForFileSensor(task_id="wait", **common), extract)
    return dag


def _train(config: ModelConfig, project: Path) -> DAG:
    """Fix a snapshot, train a challenger on it, register it, and judge it against the champion."""
    events: list[Any] = []
    if "decision" in config.retrain.on:
        events.append(assets.retrain(config.model))
    if "data" in config.retrain.on:
        events.append(assets.data(config.model))
    schedule = _any_of(events, config.retrain.schedule)
    with _dag(config, "train", _train, schedule=schedule, params=_window_params("to train on, holdout included")) as dag:
        common = _common(config, project, queue=TRAIN_QUEUE)
        plan = PlanTrainingOperator(task_id="plan", **common)
        search = _search(config, plan, common)
        # a worker that failed takes nothing from what the others found; without a plan nothing runs
        rule = TriggerRule.ALL_DONE_MIN_ONE_SUCCESS if search else TriggerRule.ALL_SUCCESS
        train = TrainModelOperator(task_id="train", snapshot=plan.output, trigger_rule=rule, **common)
        register = RegisterModelOperator(task_id="register", training=train.output, **common)
        gate = GateChallengerOperator(
            task_id="gate",
            snapshot=plan.output,
            registered=register.output,
            outlets=[AssetAlias(f"{config.model}/challenger")],
            **common,
        )
        chain(plan, *([search] if search else []), train, register, gate)
    return dag


def _search(config: ModelConfig, plan: BaseOperator, common: dict[str, str]) -> Any | None:
    """The workers that share the hyperparameter search; None if the train task searches alone."""
    search = config.train.search
    workers = min(search.workers, search.trials) if search else 1
    if workers == 1:
        return None
    label = f"worker {{{{ ti.map_index + 1 }}}} of {workers}"
    searching = SearchParamsOperator.partial(task_id="search", snapshot=plan.output, map_index_template=label, **common)
    return searching.expand(worker=list(range(workers)))


def _deploy(config: ModelConfig, project: Path) -> DAG:
    """Bring a version into service without a failed request, or go back to one: the ledger says what serves."""
    version = Param(
        None,
        type=["null", "integer", "string"],
        title="Version",
        description="A version number, or `previous` to roll back; empty: the challenger that passed its gates last.",
    )
    with _dag(
        config, "deploy", _deploy, schedule=[assets.challenger(config.model)], params={"version": version}, max_active_runs=16
    ) as dag:
        common = _common(config, project, queue=DEPLOY_QUEUE)
        approve = _approve(config, common) if config.approval.required else None
        package = PackageReleaseOperator(task_id="package", approved=approve.output if approve else None, **common)
        rehearse = RehearseReleaseOperator(task_id="rehearse", plan=package.output, **common)
        rollout = RollOutReleaseOperator(task_id="rollout", plan=package.output, evidence=rehearse.output, **common)
        promote = PromoteReleaseOperator(
            task_id="promote", plan=package.output, evidence=rollout.output, outlets=[assets.champion(config.model)], **common
        )
        steps: list[BaseOperator] = [package, rehearse, rollout, promote]
        chain(*([approve] if approve else []), *steps)
    return dag


def _approve(config: ModelConfig, common: dict[str, str]) -> BaseOperator:
    """The question; its subject and body are written when it is asked."""
    reason = Param(
        None,
        type=["null", "string"],
        maxLength=500,
        title="Reason",
        description="Why; it goes into the release ledger with your name.",
        format="multiline",
    )
    return ApproveReleaseOperator(
        task_id="approve",
        subject=f"Deploy the challenger of {config.model}?",
        params={"reason": reason},
        assigned_users=[{"id": user, "name": user} for user in config.approval.approvers] or None,
        response_timeout=config.approval.timeout,
        **common,
    )


def _monitor(config: ModelConfig, project: Path) -> DAG:
    """Watch what serves: collect scored rows, check inputs, report drift, measure performance, and decide."""
    if config.monitor.schedule:
        schedule: Any = CronDataIntervalTimetable(config.monitor.schedule, timezone="UTC")
    else:
        schedule = [assets.data(config.model)]
    release = Param(
        None,
        type=["null", "string"],
        maxLength=500,
        title="Release",
        description="Why the rows of this window are good though it was decided `fix_data`: they may be trained on. Empty: not released.",
    )
    params = {**_window_params("to look at"), "release": release}
    with _dag(config, "monitor", _monitor, schedule=schedule, params=params, **_range(config)) as dag:
        common = _common(config, project)
        # the request logs are where the model serves
        collect = CollectPredictionsOperator(task_id="collect", **{**common, "queue": DEPLOY_QUEUE})
        decide = MonitorModelOperator(task_id="decide", outlets=[AssetAlias(f"{config.model}/retrain")], **common)
        chain(collect, decide)
    return dag


def _score(config: ModelConfig, project: Path) -> DAG:
    """Score a window of committed rows in batch with the champion."""
    with _dag(config, "score", _score, schedule=None, params=_window_params("to score")) as dag:
        ScoreWindowOperator(task_id="score", outlets=[assets.scores(config.model)], **_common(config, project))
    return dag


_KINDS: dict[str, Callable[[ModelConfig, Path], DAG]] = {
    "ingest": _ingest,
    "train": _train,
    "deploy": _deploy,
    "monitor": _monitor,
    "score": _score,
}


@contextmanager
def _dag(
    config: ModelConfig, kind: str, build: Callable[..., DAG], *, schedule: Any, params: dict[str, Param], **options: Any
) -> Iterator[DAG]:
    options.setdefault("start_date", _LONG_AGO)
    options.setdefault("max_active_runs", 1)
    summary = inspect.getdoc(build) or ""
    with DAG(
        dag_id=f"{config.model}__{kind}",
        description=summary,
        doc_md=f"{config.description}\n\n{summary}\n\nEdit `dags/configs/{config.model}.yaml` and `include/models/{config.model}.py`.",
        schedule=schedule,
        catchup=False,
        tags=["windvane", config.model, kind, *config.tags],
        default_args={
            "owner": config.owner,
            "retries": 3,
            "retry_delay": timedelta(seconds=5),
            "retry_policy": _RETRY_POLICY,
        },
        **options,
    ) as dag:
        yield dag
        # not before, because every task would take a copy: a run gives its tasks the params of the DAG anyway. And not by setting the
        # attribute, because the defaults, which are the same for every model, would be checked. Both are half of parsing many models.
        object.__setattr__(dag, "params", ParamsDict(params))


# bad data, configs and code do not mend themselves; infrastructure may come back
_RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="windvane.errors.ServiceUnavailable", action=RetryAction.RETRY, retry_delay=timedelta(seconds=20)),
        RetryRule(exception="windvane.errors.StorageError", action=RetryAction.RETRY, retry_delay=timedelta(seconds=20)),
        RetryRule(exception=WindvaneError, action=RetryAction.FAIL, reason="trying again does not help; the message says what does"),
    ]
)


def _common(config: ModelConfig, project: Path, *, queue: str = "default") -> dict[str, str]:
    """What every task of a model is given; an executor that has no queues takes no notice of one, but of a pool."""
    pool = {"pool": TRAIN_POOL} if queue == TRAIN_QUEUE else {}
    return {"model": config.model, "project": str(project), "queue": queue, **pool}


def _range(config: ModelConfig) -> dict[str, Any]:
    return {"start_date": config.data.start or _LONG_AGO, "end_date": config.data.end}


def _any_of(events: list[Any], cron: str | None) -> Any:
    """A schedule of events, of a clock, or of whichever comes first."""
    either = None
    for event in events:
        either = event if either is None else either | event
    if cron is None:
        return None if either is None else [either] if len(events) == 1 else either
    clock = CronTriggerTimetable(cron, timezone="UTC")
    return clock if either is None else AssetOrTimeSchedule(timetable=clock, assets=either)


def _window_params(what_for: str) -> dict[str, Param]:
    fields = {"window_start": "First moment", "window_end": "End, exclusive,"}
    return {
        name: Param(
            None,
            type=["null", "string"],
            format="date-time",
            title=text.rstrip(","),
            description=f"{text} of the window {what_for}, UTC; empty: found from the event, the interval, or the newest data.",
        )
        for name, text in fields.items()
    }


def _config_error_dag(path: Path, error: ConfigError) -> DAG:
    """A visible sign of a config that cannot be used; its only task fails with the problems."""
    model = path.stem
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in model)
    with DAG(
        dag_id=f"{safe}__config_error",
        description=f"{path.name} has problems; fix them and this DAG gives way to the model's own",
        doc_md="\n".join([f"`dags/configs/{path.name}` has problems:", "", *(f"- {problem}" for problem in error.problems)]),
        schedule=None,
        start_date=_LONG_AGO,
        tags=["windvane", "config_error", safe],
    ) as dag:
        ConfigErrorOperator(task_id="config_error", problems=list(error.problems), retries=0)
    return dag
