"""Registers a bundle as a version in MLflow, once, however often it is tried."""

import logging
from typing import TYPE_CHECKING

from windvane.bundle import Bundle, find_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, ServiceUnavailable
from windvane.mlflow_client import connect, experiment_of, naming_mlflow
from windvane.settings import Settings
from windvane.track_training import ARTIFACT_PATH, BUNDLE_TAG, KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"
SERVES_AS_TAG = "windvane.serves_as"
RECALIBRATED_TAG = "windvane.recalibrated_from"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def register_model(config: ModelConfig, settings: Settings, *, bundle_digest: str, run_id: str) -> int:
    """Make a version from the bundle in a run and point the alias `challenger` at it; a version made before is adopted.

    The version is created together with its tags in one call, so an attempt that is killed leaves either nothing or a
    version that the next attempt finds.

    Returns:
        The version's number.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
        BundleError: If the run does not hold this bundle, such as one that was killed while it was uploaded.
    """
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    with naming_mlflow(settings):
        run = client.get_run(run_id)
        if run.info.status != "FINISHED" or run.data.tags.get(BUNDLE_TAG) != bundle_digest:
            raise BundleError(
                f"MLflow run {run_id}: is {run.info.status} and does not hold bundle {bundle_digest[:12]}; run the train task again"
            )
        _ensure_model(client, config.model, config.description)
        version = _version_of(client, config.model, bundle_digest)
        if version is None:
            tags = {BUNDLE_TAG: bundle_digest, KEY_TAG: run.data.tags[KEY_TAG]}
            bundle = find_bundle(settings.bundles, tags[KEY_TAG])
            if bundle and bundle.digest == bundle_digest and "recalibrated_from" in bundle.manifest:
                tags[RECALIBRATED_TAG] = bundle.manifest["recalibrated_from"]
            version = _create_version(client, config.model, run, tags=tags)
        try:
            client.set_registered_model_alias(config.model, CHALLENGER, str(version))
        except MlflowException:
            # two that set a new alias at once collide in MLflow's database; by now one of them has set it
            client.set_registered_model_alias(config.model, CHALLENGER, str(version))
        return version


def registered_version(settings: Settings, model: str, bundle_digest: str, *, version: int) -> int | None:
    """The version in MLflow that is the bundle: `version` if it still is, else another one; None if there is none.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    with naming_mlflow(settings):
        try:
            if client.get_model_version(model, str(version)).tags.get(BUNDLE_TAG) == bundle_digest:
                return version
        except MlflowException as exc:
            if exc.error_code not in _MISSING:
                raise
        return _version_of(client, model, bundle_digest)


def register_again(settings: Settings, bundle: Bundle, *, version: int, description: str = "") -> int:
    """Register a bundle whose version was deleted in MLflow; MLflow never gives a number twice, so it gets a new one.

    Args:
        version: The number under which the ledger knows it; kept in the new version's tags.
        description: Of the model, should that be gone too.

    Returns:
        The new number.

    Raises:
        ServiceUnavailable: If MLflow does not answer or refuses.
    """
    from mlflow.exceptions import MlflowException

    client, model = connect(settings), str(bundle.manifest["model"])
    with naming_mlflow(settings):
        try:
            _ensure_model(client, model, description)
            experiment = experiment_of(client, settings, model)
            runs = client.search_runs([experiment], filter_string=f"tags.`{BUNDLE_TAG}` = '{bundle.digest}'")
            run = next((run for run in runs if run.info.status == "FINISHED"), None) or _record_bundle(client, experiment, bundle)
            tags = {BUNDLE_TAG: bundle.digest, KEY_TAG: bundle.training_key, SERVES_AS_TAG: str(version)}
            return _create_version(client, model, run, tags=tags)
        except MlflowException as exc:
            raise ServiceUnavailable(
                f"MLflow at {settings.mlflow_uri}: {model} version {version} cannot be registered again: {exc.message:.200}"
            ) from exc


def set_champion_alias(settings: Settings, model: str, version: int) -> None:
    """Point MLflow's alias `champion`, a cache of the release ledger, at a version.

    Raises:
        ServiceUnavailable: If MLflow does not answer or does not have the version.
    """
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    with naming_mlflow(settings):
        try:
            client.set_registered_model_alias(model, CHAMPION, str(version))
        except MlflowException as exc:
            raise ServiceUnavailable(f"MLflow at {settings.mlflow_uri}: alias '{CHAMPION}' of {model}: {exc.message:.200}") from exc


def get_alias(settings: Settings, model: str, alias: str) -> tuple[int, str | None] | None:
    """The version that an alias points to and the digest of its bundle; None when there is no such alias or model.

    Raises:
        ServiceUnavailable: If MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    with naming_mlflow(settings):
        try:
            found = client.get_model_version_by_alias(model, alias)
        except MlflowException as exc:
            if exc.error_code in _MISSING:
                return None
            raise
        return int(found.version), found.tags.get(BUNDLE_TAG)


def _ensure_model(client: "MlflowClient", model: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, description=description)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _record_bundle(client: "MlflowClient", experiment: str, bundle: Bundle) -> "Run":
    """A run that holds the bundle, in place of one that was deleted."""
    run = client.create_run(experiment, run_name=f"bundle {bundle.digest[:12]}", tags={KEY_TAG: bundle.training_key})
    client.log_artifacts(run.info.run_id, str(bundle.path), ARTIFACT_PATH)
    client.set_tag(run.info.run_id, BUNDLE_TAG, bundle.digest)
    client.set_terminated(run.info.run_id, status="FINISHED")
    return run


def _create_version(client: "MlflowClient", model: str, run: "Run", *, tags: dict[str, str]) -> int:
    source = f"{run.info.artifact_uri}/{ARTIFACT_PATH}"
    made = int(client.create_model_version(model, source, run_id=run.info.run_id, tags=tags, await_creation_for=30).version)
    version = _version_of(client, model, tags[BUNDLE_TAG]) or made
    if made != version:
        log.info("%s: another process registered the bundle as version %d first", model, version)
        client.delete_model_version(model, str(made))
    return version


def _version_of(client: "MlflowClient", model: str, bundle_digest: str) -> int | None:
    """The lowest version made from the bundle: two processes that both made one agree on it."""
    found = client.search_model_versions(f"name = '{model}' AND tags.`{BUNDLE_TAG}` = '{bundle_digest}'")
    return min((int(v.version) for v in found), default=None)
