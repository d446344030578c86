"""Keeps one finished MLflow run per training key: params, metrics, the dataset, plots and the bundle."""

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windvane.bundle import Bundle
from windvane.config import ModelConfig
from windvane.mlflow_client import connect, experiment_of, naming_mlflow
from windvane.settings import Settings
from windvane.snapshot import Snapshot
from windvane.store_files import Place, local_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

KEY_TAG = "windvane.training_key"
BUNDLE_TAG = "windvane.bundle"
ARTIFACT_PATH = "bundle"
_LONGEST_PARAM = 500


def begin_run(config: ModelConfig, settings: Settings, snapshot: Snapshot) -> tuple[str, str]:
    """Start the run of a training: (experiment id, run id); runs that an earlier attempt left unfinished become KILLED.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    client = connect(settings)
    with naming_mlflow(settings):
        experiment = experiment_of(client, settings, config.model)
        for run in _runs_of(client, experiment, snapshot.training_key):
            if run.info.status in ("RUNNING", "SCHEDULED"):
                log.info("%s: the run %s of an earlier attempt never ended: it is marked KILLED", config.model, run.info.run_id)
                client.set_terminated(run.info.run_id, status="KILLED")
        tags = {
            KEY_TAG: snapshot.training_key,
            "windvane.code_commit": snapshot.code_commit,
            "windvane.config_digest": snapshot.config_digest,
        }
        run = client.create_run(experiment, run_name=f"{config.model} {snapshot.holdout.end:%Y-%m-%d}", tags=tags)
        return experiment, str(run.info.run_id)


def finished_run(config: ModelConfig, settings: Settings, snapshot: Snapshot, digest: str) -> tuple[str, str] | None:
    """The run that holds everything about a bundle already: (experiment id, run id).

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    client = connect(settings)
    with naming_mlflow(settings):
        experiment = experiment_of(client, settings, config.model)
        for run in _runs_of(client, experiment, snapshot.training_key):
            if run.info.status == "FINISHED" and run.data.tags.get(BUNDLE_TAG) == digest:
                return experiment, str(run.info.run_id)
    return None


def finish_run(config: ModelConfig, settings: Settings, snapshot: Snapshot, *, run_id: str, bundle: Bundle, plots: Place) -> None:
    """Log everything about a bundle, and only then mark the run FINISHED.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    from mlflow.entities import Metric, Param, RunTag

    client, now = connect(settings), int(time.time() * 1000)
    manifest = bundle.manifest
    params = {**{f"model.{k}": v for k, v in manifest["params"].items()}, **_described(snapshot)}
    with naming_mlflow(settings):
        client.log_batch(
            run_id,
            # infinity would be stored as the best score ever
            metrics=[Metric(name, value, now, 0) for name, value in manifest["metrics"].items() if math.isfinite(value)],
            params=[Param(name, str(value)[:_LONGEST_PARAM]) for name, value in params.items()],
            tags=[RunTag(BUNDLE_TAG, bundle.digest), RunTag("windvane.library_versions", json.dumps(manifest["library_versions"]))],
        )
        client.log_inputs(run_id, datasets=_datasets(config, settings, snapshot, manifest))
        client.log_artifacts(run_id, str(bundle.path), ARTIFACT_PATH)
        with local_files(plots) as pictures:
            if pictures is not None:
                client.log_artifacts(run_id, str(pictures), "plots")
        client.set_terminated(run_id, status="FINISHED")


def fail_run(settings: Settings, run_id: str) -> None:
    """Mark a run FAILED.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    client = connect(settings)
    with naming_mlflow(settings):
        client.set_terminated(run_id, status="FAILED")


def _runs_of(client: "MlflowClient", experiment: str, training_key: str) -> Any:
    return client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{training_key}'", order_by=["attributes.start_time DESC"])


def _described(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "train_window": snapshot.train,
        "holdout_window": snapshot.holdout,
        "table_version": snapshot.table_version,
        **({"sample": snapshot.sample} if snapshot.sample else {}),
        "seed": snapshot.seed,
        "config_digest": snapshot.config_digest,
        "code_digest": snapshot.code_digest,
        "lock_digest": snapshot.lock_digest,
    }


def _datasets(config: ModelConfig, settings: Settings, snapshot: Snapshot, manifest: Mapping[str, Any]) -> list[Any]:
    """The snapshot as MLflow's dataset inputs, by reference: no row is copied."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [{"type": c["type"], "name": c["name"], "required": not c["nullable"]} for c in manifest["signature"]]
    inputs = []
    for context, window in (("training", snapshot.train), ("holdout", snapshot.holdout)):
        source = {"uri": f"{settings.lake}/{config.model}/raw", "version": snapshot.table_version, **window.as_extra()}
        dataset = Dataset(
            name=f"{config.model}/raw",
            digest=f"{snapshot.data_digest[:24]}-{context[:5]}",
            source_type="delta_table",
            source=json.dumps(source),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": manifest["rows"][context]}),
        )
        inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)]))
    return inputs
