"""Counting by version over pods that restart, come and go."""

from windvane.bake_step import Counted
from windvane.kubernetes_counts import PodCounts


def pod(name, version=1, *, ready=True, restarts=0, leaving=False, **more):
    meta = {"name": name, "uid": name, "labels": {"windvane/version": str(version)}}
    scorer = {"name": "scorer", "ready": ready, "restartCount": restarts}
    return {"metadata": {**meta, **({"deletionTimestamp": "now"} if leaving else {})}, "status": {"containerStatuses": [scorer]}, **more}


def metrics(*, path="/invocations", waiting=0, **by_status):
    lines = [f'windvane_requests_total{{model="m",path="{path}",status="{status[1:]}"}} {float(n)!r}' for status, n in by_status.items()]
    ready = 'windvane_requests_total{model="m",path="/ready",status="200"} 12345.0'
    return "\n".join([*lines, ready, f'windvane_in_flight_requests{{model="m"}} {float(waiting + 1)!r}'])


def test_the_pods_of_a_version_are_summed():
    texts = {"a": metrics(_200=90, _400=6, _422=1, _500=3, waiting=2), "b": metrics(_200=1_000_000, waiting=1), "c": metrics(_200=7)}
    found = PodCounts("m").update([pod("a"), pod("b"), pod("c", 2)], texts.get)
    assert found == {1: Counted(1_000_100, 3, 7, down=False, waiting=3), 2: Counted(7, 0, 0)}


def test_both_protocols_count_and_nothing_else():
    text = metrics(_200=5) + "\n" + metrics(path="/v2/models/m/infer", _200=6) + "\n" + metrics(path="/v2/models/other/infer", _200=70)
    assert PodCounts("m").update([pod("a")], lambda name: text)[1].requests == 11


def test_a_restart_and_a_pod_that_goes_take_nothing_back():
    counts = PodCounts("m")
    counts.update([pod("a"), pod("b")], {"a": metrics(_200=50, _500=4), "b": metrics(_200=10)}.get)
    found = counts.update([pod("a", restarts=1)], {"a": metrics(_200=3)}.get)
    assert found[1] == Counted(54 + 3 + 10, 4, 0)
    assert counts.update([pod("a", restarts=1)], {"a": metrics(_200=9)}.get)[1].requests == 54 + 9 + 10


def test_a_pod_that_hangs_is_down_and_its_figures_stay():
    counts = PodCounts("m")
    counts.update([pod("a")], lambda name: metrics(_200=50))
    assert counts.update([pod("a")], lambda name: None) == {1: Counted(50, 0, 0, down=True)}


def test_a_pod_that_crashed_is_down_and_one_that_starts_is_not():
    assert PodCounts("m").update([pod("a", ready=False, restarts=1)], lambda name: None)[1].down
    assert not PodCounts("m").update([pod("a", ready=False)], lambda name: None)[1].down


def test_a_pod_that_leaves_is_not_asked():
    asked = []
    PodCounts("m").update([pod("a", leaving=True), pod("b"), {"metadata": {"name": "c"}, "status": {}}], lambda name: asked.append(name))
    assert asked == ["b"]
