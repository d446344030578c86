"""What the target makes is right by the schemas of several Kubernetes versions, hardened, and named so that nothing collides."""

import re

import pytest
from kubernetes_cluster import check_manifest
from small_bundle import MODEL, make_config
from test_kubernetes_place import PLACE

from windvane.kubernetes_manifests import Served, host_of, name_of, rehearsal_manifest, route_manifest, slug, version_manifests

DIGEST = "0123456789abcdef" * 4
LONG = "a_model_whose_name_is_as_long_as_the_config_allows_it_to_be_made"[:63]
_MARK = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def made(model=MODEL, **deploy):
    config = make_config(target="kubernetes", **deploy).model_copy(update={"model": model})
    rehearsal = rehearsal_manifest(
        config, PLACE, name=f"rehearse-{slug(model)}-v123456-abcdef", version=123456, digest=DIGEST, replay="s3://b/rows"
    )
    route = route_manifest(config, PLACE, {123455: 90, 123456: 10}, epoch=7)
    return [*version_manifests(config, PLACE, Served(123456, DIGEST, 7)), route, rehearsal]


def pods(manifests):
    return {item["kind"]: item["spec"]["template"]["spec"] for item in manifests if "template" in item["spec"]}


@pytest.mark.parametrize("model", [MODEL, "flight_delay", LONG], ids=["short", "with underscores", "long"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_every_manifest_is_right_by_the_schemas(model, replicas):
    for manifest in made(model, replicas=replicas):
        check_manifest(manifest, ("1.29", "1.31", "1.33", "1.37"))
        assert len(manifest["metadata"]["name"]) <= 63
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
        assert all(_MARK.fullmatch(value) for value in manifest["metadata"]["labels"].values())


def test_a_manifest_that_is_wrong_is_found_so():
    wrong = made()[0]
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(Exception, match="imagePullPolice"):
        check_manifest(wrong)
    route = made()[-2]
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 1_000_001
    with pytest.raises(Exception, match="1000001"):
        check_manifest(route)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_every_container_is_locked_down(kind):
    pod = pods(made())[kind]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) - {"name"} <= {"emptyDir", "secret"} for volume in pod["volumes"])
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        limits = container["resources"]
        assert {limits["requests"][name] == limits["limits"][name] for name in ("cpu", "memory")} == {True}


def test_what_scores_and_what_rehearses_has_no_credentials_and_cannot_change_its_bundle():
    found = pods(made())
    for container in (found["Deployment"]["containers"][0], found["Job"]["containers"][0]):
        assert "envFrom" not in container
        assert "env" not in container
        assert next(mount for mount in container["volumeMounts"] if mount["mountPath"] == "/bundles")["readOnly"]
    assert [container["name"] for container in found["Deployment"]["initContainers"]] == ["fetch-bundle", "ship-requests"]
    assert found["Deployment"]["initContainers"][1]["restartPolicy"] == "Always"


def test_a_rehearsal_has_the_image_the_limits_and_the_hardening_of_what_would_serve():
    found = pods(made(limits={"memory": "2g", "cpus": 0.25}))
    scorer, rehearsal = found["Deployment"]["containers"][0], found["Job"]["containers"][0]
    for name in ("image", "resources", "securityContext"):
        assert scorer[name] == rehearsal[name]
    assert scorer["resources"]["limits"]["memory"] == "2Gi"
    assert scorer["resources"]["limits"]["cpu"] == "250m"


def test_every_volume_that_is_mounted_is_there_and_every_one_that_is_there_is_mounted():
    for pod in pods(made()).values():
        mounted = {mount["name"] for container in [*pod["initContainers"], *pod["containers"]] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_weights_are_the_traffic():
    route = route_manifest(make_config(target="kubernetes"), PLACE, {1: 90, 2: 10, 3: 0}, epoch=4)
    assert {(b["name"], b["weight"]) for b in route["spec"]["rules"][0]["backendRefs"]} == {("churn-v1", 90), ("churn-v2", 10)}
    check_manifest(route_manifest(make_config(target="kubernetes"), PLACE, {}, epoch=5))


def test_clients_do_not_reach_the_metrics():
    route = route_manifest(make_config(target="kubernetes"), PLACE, {1: 100}, epoch=4)
    paths = {match["path"]["value"] for match in route["spec"]["rules"][0]["matches"]}
    assert "/metrics" not in paths
    assert "/" not in paths
    assert {"/invocations", "/v2", "/model", "/ping"} <= paths


def test_an_epoch_alone_starts_no_pod_anew():
    config = make_config(target="kubernetes")
    one, two = (version_manifests(config, PLACE, Served(3, DIGEST, epoch))[0] for epoch in (4, 5))
    assert one["spec"] == two["spec"]
    assert one["metadata"]["annotations"] != two["metadata"]["annotations"]


def test_names_of_models_do_not_collide():
    names = ["churn", "churn_v1", "churn_v1_v2", LONG, LONG[:-1], f"{LONG[:-1]}x"]
    assert len({slug(name) for name in names}) == len(names)
    assert name_of("churn_v1", 2) != name_of("churn", 1)
    assert host_of("flight_delay", "models.example.com") == "flight-delay.models.example.com"
