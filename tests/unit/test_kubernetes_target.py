"""The Kubernetes target against an API of its own: what is applied, in which order, and who wins when several apply at once."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes_cluster import Cluster, granted_rights, serve_cluster
from kubernetes_written_pods import Pods
from small_bundle import MODEL, make_config, make_settings, write_config

import windvane.deployment as deploying
import windvane.kubernetes_rehearsal as rehearsing
import windvane.kubernetes_target as targeting
from windvane.check_health import silent_endpoints
from windvane.check_serving import check_memory
from windvane.deployment import Plan, package, promote, rehearse, roll_out
from windvane.describe_platform import describe_platform
from windvane.errors import ConfigError, RehearsalFailed, RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.judge_rollout import Check, Judgement
from windvane.kubernetes_api import KubernetesApi
from windvane.kubernetes_target import KubernetesTarget
from windvane.ledger import Ledger
from windvane.reconcile import Memory, reconcile_model
from windvane.roll_back import _wait_until_served

A, B, C = "a" * 64, "b" * 64, "c" * 64
CONFIG = make_config(target="kubernetes", replicas=2)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "WINDVANE_SCORER_IMAGE": "registry.example.com/windvane/scorer:1",
        "WINDVANE_MODELS_DOMAIN": "models.example.com",
        "WINDVANE_BUNDLES": "s3://windvane/bundles",
        "WINDVANE_REQUESTS": "s3://windvane/requests",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(targeting, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(targeting, "_READY_SECONDS", 0.6)
    monkeypatch.setattr(targeting, "_ROUTE_SECONDS", 0.3)
    monkeypatch.setattr(targeting, "_ALIGN_SECONDS", 0.2)
    monkeypatch.setattr(rehearsing, "_POLL_SECONDS", 0.01)
    made = Cluster(Pods())
    with serve_cluster(made, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield made
    assert made.denied == []


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path / "project")


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def steps(monkeypatch, cluster):
    """Steps that bake for fifty requests, and what each saw: weights, and the answers by version."""
    seen = []

    def bake(config, settings, target, ledger, plan, release, **_):
        before = target.counts()
        answers = cluster.send(50)
        counted = {version: found.since(before[version]) for version, found in target.counts().items()}
        seen.append(
            (cluster.weights(), dict(answers), {version: (found.requests, found.server_errors) for version, found in counted.items()})
        )
        bad = counted[plan.version].server_errors > 0
        return Judgement("revert" if bad else "advance", (Check("errors", "revert" if bad else "advance", "as counted"),))

    monkeypatch.setattr(deploying, "bake_step", bake)
    monkeypatch.setattr(deploying, "sync_alias", lambda settings, model, version: None)
    monkeypatch.setattr(deploying, "rehearse_candidate", lambda config, settings, target, plan, champion: _rehearsed(target, plan))
    return seen


def _rehearsed(target, plan):
    target.rehearse(plan)
    return {"judgement": {"reason": "all is well"}, "replay": {"loss": None}}


def plan_of(version=1, digest=A, *, epoch=0, **more):
    return Plan(MODEL, version, digest, rollback=more.pop("rollback", False), epoch=epoch, reason="why", actor="test", **more)


def deploy(settings, plan, config=CONFIG):
    package(config, settings, plan)
    rehearse(config, settings, plan)
    roll_out(config, settings, plan)
    return promote(config, settings, plan)


def align(settings, ledger, config=CONFIG):
    return KubernetesTarget(config, settings).align(ledger.last(MODEL))


def kinds(cluster):
    return {plural: cluster.names(plural) for plural in ("deployments", "services", "poddisruptionbudgets", "httproutes", "jobs")}


def only(*versions):
    names = [f"churn-v{version}" for version in versions]
    return {"deployments": names, "services": names, "poddisruptionbudgets": names, "httproutes": ["churn"], "jobs": []}


def test_a_first_version_serves_all_and_leaves_nothing_else(cluster, settings, ledger):
    deploy(settings, plan_of())

    assert kinds(cluster) == only(1)
    assert cluster.weights() == {"churn-v1": 100}
    assert cluster.objects["httproutes", "churn"]["spec"]["hostnames"] == ["churn.models.example.com"]
    assert len(cluster.names("pods")) == 2
    assert [row.action for row in ledger.history(MODEL)] == ["shift", "promote"]
    assert align(settings, ledger) == []


def test_a_rollout_moves_the_weights_step_by_step_and_loses_no_request(cluster, settings, ledger, steps):
    deploy(settings, plan_of())
    deploy(settings, plan_of(2, B, epoch=2))

    weights, answers, counted = zip(*steps, strict=True)
    assert list(weights) == [{"churn-v1": 100}, {"churn-v1": 50, "churn-v2": 50}, {"churn-v2": 100}]
    assert all(found == {200: 50} for found in answers)
    assert counted[1] == {1: (25, 0), 2: (25, 0)}
    assert counted[2] == {1: (0, 0), 2: (50, 0)}
    assert kinds(cluster) == only(2)


def test_nothing_has_weight_before_its_pods_are_ready(cluster, settings, ledger):
    cluster.pods.slow = 5
    weighed_unready = []

    def look(verb, resource, name):
        if (verb, resource) == ("patch", "httproutes"):
            ready = [pod for (kind, _), pod in cluster.objects.items() if kind == "pods" and pod["status"].get("containerStatuses")]
            weighed_unready.append(len([pod for pod in ready if pod["status"]["containerStatuses"][0]["ready"]]))

    package(CONFIG, settings, plan_of())
    cluster.before = look
    roll_out(CONFIG, settings, plan_of())
    assert weighed_unready == [2]


def test_a_version_that_never_becomes_ready_takes_no_traffic_and_goes_again(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.pods.unready.add(B)
    with pytest.raises(RolloutFailed, match=r"churn-v2: 0 of 2 pods are available.*CrashLoopBackOff"):
        deploy(settings, plan_of(2, B, epoch=2))

    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)
    assert [row.action for row in ledger.history(MODEL)] == ["shift", "promote", "shift", "revert"]
    assert cluster.send(20) == {200: 20}


def test_a_version_that_answers_with_errors_is_reverted_at_its_first_step(cluster, settings, ledger, steps):
    deploy(settings, plan_of())
    cluster.pods.failing.add(B)
    with pytest.raises(RolloutFailed, match="as counted"):
        deploy(settings, plan_of(2, B, epoch=2))

    assert steps[-1][0] == {"churn-v1": 50, "churn-v2": 50}
    assert steps[-1][2][2][1] > 0
    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)


def test_pods_that_serve_another_digest_take_no_traffic(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.pods.impostors[B] = C
    with pytest.raises(RolloutFailed, match=f"churn-v2 serves version 2 with the digest {C[:12]}, allowed is {B[:12]}"):
        deploy(settings, plan_of(2, B, epoch=2))
    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)


def test_a_rollback_goes_to_all_traffic_at_once(cluster, settings, ledger, steps):
    deploy(settings, plan_of())
    deploy(settings, plan_of(2, B, epoch=2))
    before = len(steps)
    deploy(settings, plan_of(1, A, epoch=ledger.last(MODEL).epoch, rollback=True))

    assert len(steps) == before
    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)
    assert ledger.last(MODEL).action == "rollback"


def test_a_first_version_that_fails_leaves_a_route_to_nobody(cluster, settings, ledger):
    cluster.pods.failing.add(A)
    with pytest.raises(RolloutFailed):
        deploy(settings, plan_of())
    assert kinds(cluster) == only()
    assert cluster.weights() == {}


@pytest.mark.parametrize("plural", ["deployments", "services", "poddisruptionbudgets", "httproutes"])
def test_what_was_deleted_by_hand_comes_back(cluster, settings, ledger, plural):
    deploy(settings, plan_of())
    cluster.delete_by_hand(plural, cluster.names(plural)[0])

    done = align(settings, ledger)

    assert len(done) == 1
    assert done[0].startswith("churn: ")
    assert kinds(cluster) == only(1)
    assert align(settings, ledger) == []


def test_what_was_changed_by_hand_is_taken_back(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.change_by_hand("httproutes", "churn", lambda item: item["spec"]["rules"][0]["backendRefs"][0].update(weight=7, name="other"))
    cluster.change_by_hand("deployments", "churn-v1", lambda item: item["spec"].update(replicas=1))

    assert align(settings, ledger) == ["churn: changed the Deployment churn-v1", "churn: the route gives the traffic to version 1 100 %"]
    assert cluster.weights() == {"churn-v1": 100}
    assert cluster.objects["deployments", "churn-v1"]["spec"]["replicas"] == 2


def test_limits_and_replicas_that_were_configured_anew_come_with_the_next_look(cluster, settings, ledger):
    deploy(settings, plan_of())
    config = make_config(target="kubernetes", replicas=1, limits={"memory": "1g", "cpus": 0.5})

    assert align(settings, ledger, config) == ["churn: changed the Deployment churn-v1", "churn: deleted the PodDisruptionBudget churn-v1"]
    container = cluster.objects["deployments", "churn-v1"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] | {"ephemeral-storage": ""} == {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": ""}
    assert len(cluster.names("pods")) == 1


class Killed(BaseException):
    """What no handler sees, as little as a SIGKILL."""


@pytest.mark.parametrize("nth", range(1, 64, 3))
@pytest.mark.parametrize("how", ["killed", "refused"])
def test_an_attempt_that_ends_at_any_call_is_finished_by_the_next(cluster, settings, ledger, monkeypatch, nth, how):
    deploy(settings, plan_of())
    calls = 0
    original = KubernetesApi._bytes

    def count(api, *arguments, **more):
        nonlocal calls
        calls += 1
        # the dead make no more calls; an API server that was away is back for the next call
        if how == "killed" and calls >= nth:
            raise Killed
        if calls == nth:
            raise ServiceUnavailable("Kubernetes does not answer")
        return original(api, *arguments, **more)

    plan, steps_left = plan_of(2, B, epoch=2), [package, rehearse, roll_out, promote]
    with monkeypatch.context() as patched:
        patched.setattr(KubernetesApi, "_bytes", count)
        with suppress(Killed, ServiceUnavailable):
            while steps_left:
                steps_left[0](CONFIG, settings, plan)
                del steps_left[0]
    assert calls >= nth
    assert cluster.send(10) == {200: 10}
    # the task is tried again, after the reconciler looked
    reconcile_model(settings, MODEL, CONFIG, memory=Memory())
    for step in steps_left:
        step(CONFIG, settings, plan)

    align(settings, ledger)
    assert kinds(cluster) | {"jobs": []} == only(2)
    assert cluster.weights() == {"churn-v2": 100}
    assert ledger.last(MODEL).traffic == {2: 100}


def test_of_two_who_apply_at_once_the_older_row_is_refused(cluster, settings, ledger):
    deploy(settings, plan_of())
    deploy(settings, plan_of(2, B, epoch=2))
    epoch = ledger.last(MODEL).epoch

    def overtake(verb, resource, name):
        # just when the reconciler is about to write the route, a person rolls back
        if (verb, resource) == ("patch", "httproutes"):
            cluster.before = lambda verb, resource, name: None
            ledger.append(
                MODEL, expected_epoch=epoch, action="rollback", version=1, digest=A, traffic={1: 100}, actor="person", reason="back"
            )
            KubernetesTarget(CONFIG, settings).promote(ledger.last(MODEL))
            assert cluster.weights() == {"churn-v1": 100}

    cluster.before = overtake
    align(settings, ledger)

    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)


def test_what_a_newer_row_needs_is_not_deleted_by_who_obeys_an_older_one(cluster, settings, ledger):
    deploy(settings, plan_of())
    plan = plan_of(2, B, epoch=2)
    package(CONFIG, settings, plan)
    roll_out(CONFIG, settings, plan)
    promoted = ledger.append(
        MODEL, expected_epoch=ledger.last(MODEL).epoch, action="promote", version=2, digest=B, traffic={2: 100}, actor="test", reason="good"
    )

    def overtake(verb, resource, name):
        # version 1 is about to be deleted, when somebody rolls back to it and keeps it alive
        if (verb, resource, name) == ("delete", "deployments", "churn-v1"):
            cluster.before = lambda verb, resource, name: None
            ledger.append(
                MODEL,
                expected_epoch=promoted.epoch,
                action="rollback",
                version=1,
                digest=A,
                traffic={1: 100},
                actor="person",
                reason="back",
            )
            KubernetesTarget(CONFIG, settings).promote(ledger.last(MODEL))

    pods = {name for name in cluster.names("pods") if name.startswith("churn-v1")}
    cluster.before = overtake
    KubernetesTarget(CONFIG, settings).promote(promoted)

    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)
    assert pods <= set(cluster.names("pods"))


def test_a_ledger_that_is_behind_the_cluster_changes_nothing(cluster, settings, ledger, monkeypatch):
    deploy(settings, plan_of())
    cluster.change_by_hand("httproutes", "churn", lambda item: item["metadata"]["annotations"].update({"windvane/epoch": "99"}))
    cluster.delete_by_hand("deployments", "churn-v1")
    with pytest.raises(ServiceUnavailable, match=r"obeys epoch 99, the ledger's newest was epoch 2.*another installation"):
        align(settings, ledger)
    assert cluster.names("deployments") == []


def test_a_look_during_a_rollout_waits_for_nobody_and_complains_of_nothing(cluster, settings, ledger):
    package(CONFIG, settings, plan_of())
    cluster.pods.unready.add(A)
    later = datetime.now(UTC) + timedelta(minutes=5)
    row = ledger.append(
        MODEL, expected_epoch=0, action="shift", version=1, digest=A, traffic={1: 100}, until=later, actor="test", reason="why"
    )
    assert KubernetesTarget(CONFIG, settings).align(row) == []
    assert cluster.weights() == {}


def test_the_reconciler_says_what_it_cannot_bring_in_line(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.pods.unready.add(A)
    cluster.delete_by_hand("deployments", "churn-v1")
    cluster.delete_by_hand("httproutes", "churn")
    look = reconcile_model(settings, MODEL, CONFIG, memory=Memory())
    assert any("the target is not in line: churn: not ready within" in problem for problem in look.problems)


def test_a_missing_pod_of_the_champion_does_not_keep_the_traffic_on_a_bad_version(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.pods.failing.add(B)
    lame = next(name for name in cluster.names("pods") if name.startswith("churn-v1"))
    cluster.pods.is_ready = lambda pod: pod["metadata"]["name"] != lame
    with pytest.raises(RolloutFailed, match="as counted"):
        deploy(settings, plan_of(2, B, epoch=2))
    assert cluster.weights() == {"churn-v1": 100}
    assert kinds(cluster) == only(1)


def test_what_serves_with_no_pod_at_all_is_told_though_nothing_can_be_mended(cluster, settings, ledger):
    deploy(settings, plan_of())
    cluster.pods.unready.add(A)
    with pytest.raises(RolloutFailed, match=r"churn-v1: 0 of 2 pods are available.*CrashLoopBackOff"):
        align(settings, ledger)


def test_an_api_server_that_restarts_ends_no_bake(cluster, settings, ledger):
    deploy(settings, plan_of())
    target = KubernetesTarget(CONFIG, settings)
    cluster.send(10)
    before = target.counts()[1].requests
    cluster.away = 3
    assert target.counts()[1].requests == before == 60


def test_missing_rights_are_found_before_any_row_is_written(cluster, settings, ledger):
    cluster.rights -= {("gateway.networking.k8s.io", "httproutes", "patch")}
    with pytest.raises(ServiceUnavailable, match=r"PATCH .*/httproutes/churn: is not allowed: 403 .*rbac\.yaml"):
        deploy(settings, plan_of())
    assert ledger.history(MODEL) == []
    assert kinds(cluster) == only() | {"httproutes": []}
    cluster.denied.clear()


def test_a_manifest_that_the_cluster_refuses_is_told_with_its_words(cluster, settings, monkeypatch):
    monkeypatch.setattr(targeting, "route_manifest", lambda *a, **k: _broken(*a, **k))
    with pytest.raises(ConfigError, match="the cluster refuses it: 422 HTTPRoute churn is invalid"):
        package(CONFIG, settings, plan_of())


def _broken(*arguments, **more):
    from windvane.kubernetes_manifests import route_manifest

    made = route_manifest(*arguments, **more)
    made["spec"]["rules"][0]["backendRefs"][0]["weight"] = -1
    return made


def test_no_cluster_is_told_at_once(cluster, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(ServiceUnavailable, match=r"no cluster is known.*set KUBECONFIG"):
        package(CONFIG, settings, plan_of())


def test_a_gateway_that_takes_no_routes_ends_the_rollout(cluster, settings, ledger):
    cluster.gateway = False
    with pytest.raises(RolloutFailed, match=r"the gateway did not take the route.*no gateway says anything"):
        deploy(settings, plan_of())


def test_rehearsals_leave_no_jobs(cluster, settings):
    package(CONFIG, settings, plan_of())
    seen = KubernetesTarget(CONFIG, settings).rehearse(plan_of())
    assert (seen["ok"], seen["rows"], seen["image"]) == (True, 10, "registry.example.com/windvane/scorer:1")
    assert cluster.names("jobs") == cluster.names("pods") == []


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        ((1, 'warning: x\n{"ok": false, "error": "golden rows differ by up to 0.3"}'), RehearsalFailed, "golden rows differ"),
        ((0, '{"ok": true}\nan exit hook says this'), None, ""),
        ((137, "Killed"), RehearsalFailed, r"needs more memory than deploy.limits.memory \(512m\)"),
        ((1, ""), RehearsalFailed, "it said nothing"),
    ],
    ids=["differs", "noise after the result", "out of memory", "silent"],
)
def test_what_a_rehearsal_says_counts(cluster, settings, result, error, words):
    cluster.pods.rehearsals[A] = result
    target = KubernetesTarget(CONFIG, settings)
    if error is None:
        assert target.rehearse(plan_of())["ok"]
    else:
        with pytest.raises(error, match=words):
            target.rehearse(plan_of())
    assert cluster.names("jobs") == []


def test_a_damaged_bundle_fails_the_rehearsal_and_a_store_that_is_away_does_not(cluster, settings):
    target = KubernetesTarget(CONFIG, settings)
    cluster.pods.unfetchable[A] = (1, "its SHA-256 differs from the one it was stored with")
    with pytest.raises(RehearsalFailed, match="SHA-256 differs"):
        target.rehearse(plan_of())
    cluster.pods.unfetchable[A] = (75, "s3://windvane/bundles: cannot be read")
    with pytest.raises(ServiceUnavailable, match="cannot be read"):
        target.rehearse(plan_of())


def test_a_cluster_without_room_refuses_no_version(cluster, settings):
    cluster.pods.unschedulable = True
    with pytest.raises(ServiceUnavailable, match=r"could not be run: Unschedulable: 0/3 nodes are available"):
        KubernetesTarget(CONFIG, settings).rehearse(plan_of())


def test_a_superseded_attempt_ends(cluster, settings, ledger):
    deploy(settings, plan_of())
    deploy(settings, plan_of(2, B, epoch=2))
    with pytest.raises(StaleEpoch):
        roll_out(CONFIG, settings, plan_of(3, C, epoch=2))
    assert cluster.weights() == {"churn-v2": 100}


def test_a_rollback_from_the_command_line_asks_the_cluster_whether_it_serves(cluster, settings, ledger):
    deploy(settings, plan_of())
    _wait_until_served(CONFIG, settings, plan_of())
    with pytest.raises(RolloutFailed, match="churn-v1 serves version 1"):
        _wait_until_served(CONFIG, settings, plan_of(1, B))


def test_what_serves_in_a_cluster_is_not_looked_for_on_this_host(cluster, settings, ledger):
    write_config(settings, CONFIG)
    deploy(settings, plan_of())
    assert silent_endpoints(settings) == []
    assert describe_platform(settings).serving[0].endpoint == "https://churn.models.example.com/invocations"


def test_the_limits_of_a_pod_bound_the_memory_of_a_candidate():
    assert check_memory({"peak_rss_mb": 500.0}, CONFIG).verdict == "revert"
    assert check_memory({"peak_rss_mb": 200.0}, CONFIG).verdict == "advance"


def test_the_role_grants_exactly_what_is_used(cluster, settings, ledger):
    deploy(settings, plan_of())
    deploy(settings, plan_of(2, B, epoch=2))
    align(settings, ledger, make_config(target="kubernetes", replicas=1))
    assert cluster.used == granted_rights()
