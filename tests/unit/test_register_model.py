import dataclasses
import threading

import pytest
from training_project import make_project

from windvane.bundle import open_bundle
from windvane.errors import BundleError, ServiceUnavailable
from windvane.mlflow_client import connect
from windvane.register_model import get_alias, register_again, register_model, registered_version, set_champion_alias
from windvane.snapshot import plan_training
from windvane.train_model import train_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("registered"), rows=300)
    snapshot = plan_training(project.config, project.code, project.lake, window=None, settings=project.settings)
    return project, train_model(project.config, project.code, project.settings, project.lake, snapshot)


def register(trained):
    project, result = trained
    return register_model(project.config, project.settings, bundle_digest=result.bundle_digest, run_id=result.run_id)


def test_registering_again_and_at_once_gives_one_version(trained):
    project, result = trained
    found = []
    threads = [threading.Thread(target=lambda: found.append(register(trained))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(register(trained))
    versions = connect(project.settings).search_model_versions("name = 'churn'")
    assert len(set(found)) == 1
    assert [int(v.version) for v in versions] == found[:1]
    assert versions[0].tags == {"windvane.bundle": result.bundle_digest, "windvane.training_key": result.training_key}
    assert versions[0].source.endswith(f"{result.run_id}/artifacts/bundle")
    assert get_alias(project.settings, "churn", "challenger") == (found[0], result.bundle_digest)


def test_a_recalibrated_version_names_what_it_was_made_from(tmp_path):
    project = make_project(tmp_path, rows=800)
    snapshot = plan_training(project.config, project.code, project.lake, window=None, settings=project.settings)
    first = train_model(project.config, project.code, project.settings, project.lake, snapshot).bundle_digest
    snapshot = dataclasses.replace(snapshot, recalibrates=first)
    version = register((project, train_model(project.config, project.code, project.settings, project.lake, snapshot)))
    assert connect(project.settings).get_model_version("churn", str(version)).tags["windvane.recalibrated_from"] == first


def test_the_champion_alias_follows(trained):
    project, result = trained
    version = register(trained)
    set_champion_alias(project.settings, "churn", version)
    assert get_alias(project.settings, "churn", "champion") == (version, result.bundle_digest)
    with pytest.raises(ServiceUnavailable, match="alias 'champion' of churn"):
        set_champion_alias(project.settings, "churn", 99)


@pytest.mark.parametrize(("model", "alias"), [("churn", "nobody"), ("missing", "champion")])
def test_no_alias_is_none(trained, model, alias):
    register(trained)
    assert get_alias(trained[0].settings, model, alias) is None


def test_a_run_that_was_cut_off_cannot_be_registered(trained):
    project, result = trained
    client = connect(project.settings)
    run = client.create_run(client.get_experiment_by_name("churn").experiment_id)
    with pytest.raises(BundleError, match="RUNNING and does not hold bundle"):
        register_model(project.config, project.settings, bundle_digest=result.bundle_digest, run_id=run.info.run_id)
    client.set_terminated(run.info.run_id, status="KILLED")


def test_mlflow_away_is_named(trained):
    project, _ = trained
    with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:9"):
        get_alias(dataclasses.replace(project.settings, mlflow_uri="http://127.0.0.1:9"), "churn", "champion")


def test_a_version_that_was_deleted_is_registered_again_from_its_bundle_once(trained):
    project, result = trained
    version, bundle = register(trained), open_bundle(project.settings.bundles, result.bundle_digest)
    assert registered_version(project.settings, "churn", bundle.digest, version=version) == version
    connect(project.settings).delete_model_version("churn", str(version))
    assert registered_version(project.settings, "churn", bundle.digest, version=version) is None

    again = [register_again(project.settings, bundle, version=version) for _ in range(2)]

    assert again[0] == again[1] > version
    assert registered_version(project.settings, "churn", bundle.digest, version=version) == again[0]
    found = connect(project.settings).get_model_version("churn", str(again[0]))
    assert found.tags["windvane.serves_as"] == str(version)
    assert found.run_id == result.run_id, "its run is still there, so it is not recorded again"
