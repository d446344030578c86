"""Registers a bundle as a version in MLflow, once, however often it is tried."""

import logging
from typing import TYPE_CHECKING

from windvane.config import ModelConfig
from windvane.errors import BundleError
from windvane.mlflow_client import connect, naming_mlflow
from windvane.settings import Settings
from windvane.track_training import ARTIFACT_PATH, BUNDLE_TAG, KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"


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
        _ensure_model(client, config)
        version = _version_of(client, config.model, bundle_digest)
        if version is None:
            tags = {BUNDLE_TAG: bundle_digest, KEY_TAG: run.data.tags[KEY_TAG]}
            source = f"{run.info.artifact_uri}/{ARTIFACT_PATH}"
            made = int(client.create_model_version(config.model, source, run_id=run_id, tags=tags, await_creation_for=30).version)
            version = _version_of(client, config.model, bundle_digest) or made
            if made != version:
                log.info("%s: another process registered the bundle as version %d first", config.model, version)
                client.delete_model_version(config.model, str(made))
        try:
            client.set_registered_model_alias(config.model, CHALLENGER, str(version))
        except MlflowException:
            # two that set a new alias at once collide in MLflow's database; by now one of them has set it
            client.set_registered_model_alias(config.model, CHALLENGER, str(version))
        return version


def set_champion_alias(settings: Settings, model: str, version: int) -> None:
    """Point MLflow's alias `champion`, a cache of the release ledger, at a version.

    Raises:
        ServiceUnavailable: If MLflow does not answer or does not have the version.
    """
    from mlflow.exceptions import MlflowException

    from windvane.errors import ServiceUnavailable

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
            if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return int(found.version), found.tags.get(BUNDLE_TAG)


def _ensure_model(client: "MlflowClient", config: ModelConfig) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(config.model, description=config.description)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: "MlflowClient", model: str, bundle_digest: str) -> int | None:
    """The lowest version made from the bundle: two processes that both made one agree on it."""
    found = client.search_model_versions(f"name = '{model}' AND tags.`{BUNDLE_TAG}` = '{bundle_digest}'")
    return min((int(v.version) for v in found), default=None)
