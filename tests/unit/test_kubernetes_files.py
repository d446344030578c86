"""What lies in deploy/kubernetes is right by the schemas, hangs together, and asks the Helm chart only for what it knows."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kubernetes_cluster import check_manifest
from packaging.version import Version

from windvane.kubernetes_manifests import ACCOUNT, GATEWAY
from windvane.kubernetes_place import read_place

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "deploy" / "kubernetes"
BASES = ("models", "platform", "mlflow")
# keys of the chart that the values use; docs/kubernetes.md says which versions of it were read. Below `config` are Airflow's own
CHART = {
    *("airflowVersion", "airflowLocalSettings", "executor", "extraEnvFrom"),
    *("images.airflow.repository", "images.airflow.tag", "images.airflow.pullPolicy"),
    *("postgresql.enabled", "redis.enabled", "statsd.enabled", "cleanup.enabled", "createUserJob.enabled", "networkPolicies.enabled"),
    *("data.metadataSecretName", "data.brokerUrlSecretName", "fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"),
    *("securityContexts.pod", "securityContexts.containers", "ingress.apiServer.enabled", "ingress.flower.enabled"),
    *(f"migrateDatabaseJob.{key}" for key in ("useHelmHooks", "applyCustomEnv", "jobAnnotations")),
    *("dagProcessor.enabled", "triggerer.persistence.enabled", "scheduler.env", "apiServer.networkPolicy.ingress.from"),
    *(f"{part}.{key}" for part in ("apiServer", "scheduler", "dagProcessor", "triggerer") for key in ("replicas", "resources")),
    *(f"{part}.podDisruptionBudget.enabled" for part in ("apiServer", "scheduler")),
    *(f"workers.{kind}.{key}" for kind in ("kubernetes", "celery") for key in ("resources", "terminationGracePeriodSeconds")),
    *(
        f"workers.{kind}.serviceAccount.{key}"
        for kind in ("kubernetes", "celery")
        for key in ("create", "name", "automountServiceAccountToken")
    ),
    *(f"workers.celery.{key}" for key in ("enableDefault", "queue", "replicas", "persistence.enabled", "sets")),
    *(f"workers.celery.keda.{key}" for key in ("enabled", "pollingInterval", "minReplicaCount", "maxReplicaCount", "advanced")),
    *("dags.persistence.enabled", "dags.gitSync.enabled", "logs.persistence.enabled"),
}
# what the chart's schema takes, by the last part of the key; the others are text
KINDS = {
    **dict.fromkeys(("enabled", "create", "automountServiceAccountToken", "useHelmHooks", "applyCustomEnv", "enableDefault"), bool),
    **dict.fromkeys(("replicas", "terminationGracePeriodSeconds", "pollingInterval", "minReplicaCount", "maxReplicaCount"), int),
    **dict.fromkeys(("resources", "pod", "containers", "jobAnnotations", "advanced"), dict),
    **dict.fromkeys(("sets", "from", "env"), list),
    "airflowLocalSettings": type(None),
}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def built(base):
    """What `kubectl kustomize` makes of a base."""
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / base)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def leaves(values, known, prefix=""):
    """The paths of the keys and their values, down to those that the chart knows as a whole."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in known:
            yield from leaves(value, known, f"{path}.")
        else:
            yield path, value


@pytest.mark.parametrize("base", BASES)
def test_a_base_lists_every_file_beside_it_and_each_is_right(base):
    listed = yaml.safe_load((FOLDER / base / "kustomization.yaml").read_text())
    files = {path.name for path in (FOLDER / base).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == files
    assert all((FOLDER / base / name).is_file() for made in listed.get("configMapGenerator", ()) for name in made["envs"])
    for name in files:
        for document in documents(FOLDER / base / name):
            check_manifest(document, ("1.29", "1.31", "1.33", "1.37"))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here; the files themselves are checked above")
@pytest.mark.parametrize("base", BASES)
def test_kubectl_kustomize_builds_every_base(base):
    made = built(base)
    namespace = yaml.safe_load((FOLDER / base / "kustomization.yaml").read_text())["namespace"]
    for document in made:
        check_manifest(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == namespace
    if base == "models":
        binding = next(document for document in made if document["kind"] == "RoleBinding")
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "windvane-deployer", "namespace": "airflow"}]


@pytest.mark.parametrize("base", ["platform", "mlflow"])
def test_every_pod_is_locked_down_and_limited(base):
    pods = [
        document["spec"]["template"]["spec"]
        for path in (FOLDER / base).glob("*.yaml")
        for document in documents(path)
        if "template" in document.get("spec", {})
    ]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_what_the_target_counts_on_is_in_the_base():
    found = {
        (document["kind"], document["metadata"]["name"])
        for path in (FOLDER / "models").glob("*.yaml")
        if path.name != "kustomization.yaml"
        for document in documents(path)
    }
    assert {("ServiceAccount", ACCOUNT), ("Gateway", GATEWAY), ("NetworkPolicy", "default-deny"), ("Namespace", "windvane-models")} <= found


def test_nobody_who_deploys_gets_at_secrets_or_roles():
    role = next(document for document in documents(FOLDER / "models" / "rbac.yaml") if document["kind"] == "Role")
    resources = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert not resources & {"secrets", "configmaps", "serviceaccounts", "roles", "rolebindings", "pods/exec", "networkpolicies", "*"}
    assert not {verb for rule in role["rules"] for verb in rule["verbs"]} & {"*", "update", "deletecollection", "bind", "escalate"}


def test_the_settings_are_what_the_target_asks_for():
    lines = (FOLDER / "platform" / "settings.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["WINDVANE_TARGET"] == "kubernetes"
    place = read_place(settings)
    assert place.namespace == yaml.safe_load((FOLDER / "models" / "kustomization.yaml").read_text())["namespace"]
    gateway = documents(FOLDER / "models" / "gateway.yaml")[0]
    assert gateway["spec"]["listeners"][0]["hostname"] == f"*.{place.domain}"


@pytest.mark.parametrize("name", ["values.yaml", "values-celery-keda.yaml"])
def test_the_values_ask_the_chart_only_for_what_it_knows(name):
    values = yaml.safe_load((FOLDER / name).read_text())
    config = values.pop("config")
    used = dict(leaves(values, CHART))
    assert set(used) <= CHART
    assert [path for path, value in used.items() if type(value) is not KINDS.get(path.rpartition(".")[2], str)] == []
    # the chart writes these into airflow.cfg, where all is text
    assert all(isinstance(value, str) for section in config.values() for value in section.values())


def test_the_values_go_with_the_defaults_of_the_chart():
    values, celery = (yaml.safe_load((FOLDER / name).read_text()) for name in ("values.yaml", "values-celery-keda.yaml"))
    # the chart's policy for the API server lets nobody in that is not listed
    assert values["networkPolicies"]["enabled"]
    assert values["apiServer"]["networkPolicy"]["ingress"]["from"]
    # the chart makes an account for each set of workers: one name, one that makes it
    workers = celery["workers"]["celery"]
    assert {key for one in workers["sets"] for key in one} <= {"name", *workers}
    made = [one["name"] for one in (workers["serviceAccount"], *(one["serviceAccount"] for one in workers["sets"])) if one["create"]]
    assert made == ["airflow-worker"]
    # airflow_local_settings.py goes by the variable; the chart writes the executor into airflow.cfg alone
    for one in (values, celery):
        assert one["scheduler"]["env"] == [{"name": "AIRFLOW__CORE__EXECUTOR", "value": one["executor"]}]


def test_a_worker_for_trainings_has_room_for_as_many_as_it_takes_at_once():
    celery = yaml.safe_load((FOLDER / "values-celery-keda.yaml").read_text())
    at_once = int(celery["config"]["celery"]["worker_concurrency"])
    trainer = next(one for one in celery["workers"]["celery"]["sets"] if one["queue"] == "train")
    # what plugins/windvane_airflow/make_pools.py reckons with for one training, and a worker's own processes
    assert int(trainer["resources"]["limits"]["memory"].removesuffix("Gi")) >= 3 * at_once + 1


def test_the_values_fit_the_rest():
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    pinned = next(line for line in (REPOSITORY / "requirements.in").read_text().splitlines() if line.startswith("apache-airflow=="))
    assert values["airflowVersion"] == pinned.split("==")[1]
    sources = yaml.safe_load(values["extraEnvFrom"])
    assert sources == [{"configMapRef": {"name": "windvane-settings"}}, {"secretRef": {"name": "windvane-secrets"}}]
    image = values["images"]["airflow"]
    for base in ("platform", "mlflow"):
        listed = yaml.safe_load((FOLDER / base / "kustomization.yaml").read_text())["images"]
        assert [(item["newName"], item["newTag"]) for item in listed] == [(image["repository"], image["tag"])]
    chart = next(
        source
        for document in documents(FOLDER / "argocd.yaml")
        for source in document["spec"].get("sources", ())
        if source.get("chart") == "airflow"
    )
    assert Version(chart["targetRevision"]) >= Version("1.22")


def test_no_secret_has_a_value_in_any_file():
    for path in FOLDER.rglob("*.yaml"):
        for document in documents(path):
            assert document.get("kind") != "Secret", path


def hook():
    from unittest.mock import patch

    spec = importlib.util.spec_from_file_location("local_settings_of_the_test", REPOSITORY / "config" / "airflow_local_settings.py")
    module = importlib.util.module_from_spec(spec)
    with patch("sys.argv", ["pytest"]):
        spec.loader.exec_module(module)
    return module.pod_mutation_hook


@pytest.mark.parametrize(
    ("dag_id", "account"),
    [
        ("flights__deploy", "windvane-deployer"),
        ("windvane__reconcile", "windvane-deployer"),
        ("flights__train", "airflow-worker"),
        ("x", "airflow-worker"),
    ],
)
def test_only_the_tasks_that_deploy_run_under_the_account_that_may(dag_id, account):
    from kubernetes.client import V1Container, V1ObjectMeta, V1Pod, V1PodSpec

    spec = V1PodSpec(service_account_name="airflow-worker", automount_service_account_token=False, containers=[V1Container(name="base")])
    pod = V1Pod(metadata=V1ObjectMeta(annotations={"dag_id": dag_id}), spec=spec)
    hook()(pod)
    assert pod.spec.service_account_name == account
    assert pod.spec.automount_service_account_token is (account == "windvane-deployer")
    hook()(V1Pod(metadata=V1ObjectMeta(), spec=spec))
