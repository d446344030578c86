"""What is told of a challenger: against the champion of its own verdict, and what became of it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_bundle import MODEL, make_bundle, make_settings
from training_project import DAYS, START, fill, make_project, make_rows

from windvane.bundle import open_bundle
from windvane.catalog import Catalog
from windvane.config import ModelConfig
from windvane.describe_challenger import CONFIG_NOT_KNOWN, describe_challenger
from windvane.gate_challenger import gate_challenger
from windvane.ledger import Ledger
from windvane.snapshot import plan_training
from windvane.train_model import train_model
from windvane.verdict import load_verdict, verdict_path
from windvane.windows import Window

GATES = {"slices": {"columns": ["plan", "note"], "min_rows": 20}, "fairness": {"sensitive": ["plan"], "at_most": 0.9, "min_rows": 20}}


def register(settings, version, bundle, *, passed=True, run="churn__train/r1"):
    catalog = Catalog(settings.database)
    catalog.record_version(
        MODEL, version=version, digest=bundle.digest, manifest=bundle.manifest, run_id="r", experiment_id="e", seconds=1.0,
        size_bytes=bundle.size_bytes(), run=run,
    )  # fmt: skip
    if passed is not None:
        catalog.record_verdict(MODEL, version=version, passed=passed, reason="as the test says")
    catalog.close()


def add(settings, action, version, digest, **more):
    ledger = Ledger(settings.database)
    last = ledger.last(MODEL)
    more.setdefault("traffic", {version: 100})
    row = ledger.append(
        MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest, actor="test", reason="r", **more
    )  # fmt: skip
    ledger.close()
    return row


def train(project, config):
    snapshot = plan_training(config, project.code, project.lake, window=None, settings=project.settings)
    result = train_model(config, project.code, project.settings, project.lake, snapshot)
    return snapshot, open_bundle(project.settings.bundles, result.bundle_digest)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A champion, a world that changed, and a challenger that was judged against the champion."""
    made = make_project(tmp_path_factory.mktemp("described"), rows=3000, gates=GATES)
    settings = made.settings
    snapshot, champion = train(made, made.config)
    gate_challenger(made.config, settings, made.lake, snapshot, challenger=champion, champion=None)
    register(settings, 1, champion)
    first = describe_challenger(settings, MODEL)
    add(settings, "promote", 1, champion.digest)
    fill(made.lake, make_rows(made.config.task, 3000, seed=3, weight=-1.5))
    decide(settings, "retrain", plan_start=START)
    config = made.config.model_copy(update={"train": made.config.train.model_copy(update={"holdout": timedelta(days=9)})})
    snapshot, challenger = train(made, config)
    gate_challenger(config, settings, made.lake, snapshot, challenger=challenger, champion=champion)
    register(settings, 2, challenger)
    return SimpleNamespace(made=made, settings=settings, first=first, champion=champion, challenger=challenger, config=config)


def decide(settings, decision, *, plan_start, version=1, end=START + timedelta(days=DAYS)):
    window = Window(end - timedelta(days=7), end)
    place = settings.reports / MODEL / window.key / "decision.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"evidence": {"plan": {"train_start": plan_start.isoformat()}}}))
    evidence = SimpleNamespace(as_json=lambda: {"champion": version})
    catalog = Catalog(settings.database)
    catalog.record_window(
        MODEL, SimpleNamespace(decision=decision, reason="worse", alert="", evidence=evidence, report_path=None, window=window)
    )
    catalog.close()


def test_a_first_version_is_described_against_nothing(project):
    told = project.first
    assert (told["version"], told["against"], told["state"], told["passed"]) == (1, None, "waiting", True)
    assert {part["champion"] for part in told["metrics"]} == {None}
    assert told["metrics"][0]["name"] == "roc_auc"
    assert told["latency"]["champion_ms"] is None
    assert told["latency"]["challenger_ms"] > 0
    assert told["config_diff"] == []
    assert told["decision"] is None
    assert {part["column"] for part in told["slices"]} == {"plan", "note"}
    json.dumps(told, allow_nan=False)


def test_both_models_are_compared_on_the_same_rows(project):
    told = describe_challenger(project.settings, MODEL)
    assert (told["version"], told["digest"], told["against"], told["state"]) == (2, project.challenger.digest, 1, "waiting")
    metric = told["metrics"][0]
    assert metric["difference"] == pytest.approx(metric["challenger"] - metric["champion"])
    assert metric["difference"] > 0.1
    # the champion's own holdout, on which it was good, is no comparison
    assert metric["champion"] < project.champion.manifest["metrics"]["roc_auc"] - 0.1
    worst, *_, best = told["slices"]
    assert worst["difference"] <= best["difference"]
    assert all(part["rows"] >= 20 and part["passed"] for part in told["slices"])
    (fairness,) = told["fairness"]
    assert (fairness["column"], fairness["at_most"]) == ("plan", 0.9)
    assert fairness["challenger"] is not None
    assert fairness["champion"] is not None
    assert min(told["latency"].values()) > 0
    assert told["size_bytes"]["challenger"] == project.challenger.size_bytes()
    assert told["rows"]["training"] == project.challenger.manifest["rows"]["training"]
    assert told["holdout"]["end"] == project.challenger.manifest["snapshot"]["holdout"]["window_end"]
    assert {"champion", "slices"} <= {gate["name"] for gate in told["gates"]}
    assert told["config_diff"] == ["- train.holdout: 10d", "+ train.holdout: 9d"]


def test_the_decision_that_led_here_is_told_only_if_it_did(project):
    told = describe_challenger(project.settings, MODEL)
    assert told["decision"] == {
        "window_end": f"{START + timedelta(days=DAYS):%Y-%m-%dT%H:%M:%S}.000000+00:00",
        "decision": "retrain",
        "reason": "worse",
    }
    for changes in ({"plan_start": START + timedelta(days=3)}, {"plan_start": START, "version": 9}):
        decide(project.settings, "retrain", **changes)
        assert describe_challenger(project.settings, MODEL)["decision"] is None
    decide(project.settings, "ok", plan_start=START)
    assert describe_challenger(project.settings, MODEL)["decision"] is None
    decide(project.settings, "retrain", plan_start=START)
    assert describe_challenger(project.settings, MODEL)["decision"] is not None


def test_a_verdict_of_an_earlier_release_is_still_read(project):
    path = verdict_path(project.settings.bundles, project.challenger.digest)
    whole = path.read_text()
    old = {name: value for name, value in json.loads(whole).items() if name not in ("measured", "slices", "disparities", "latency")}
    path.write_text(json.dumps(old))
    try:
        assert load_verdict(project.settings.bundles, project.challenger.digest).slices == ()
        told = describe_challenger(project.settings, MODEL, version=2, digest=project.challenger.digest)
    finally:
        path.write_text(whole)
    assert told["metrics"][0] == {
        "name": "roc_auc", "challenger": project.challenger.manifest["metrics"]["roc_auc"], "champion": None, "difference": None,
    }  # fmt: skip
    assert (told["slices"], told["fairness"], told["latency"], told["passed"]) == ([], [], None, True)


def test_a_retried_training_adopts_its_bundle_also_if_what_cannot_change_it_changed(project):
    config, made = project.config.model_copy(update={"owner": "others", "description": "changed"}), project.made
    _, bundle = train(made, config)
    assert bundle.digest == project.challenger.digest
    assert ModelConfig.model_validate(bundle.manifest["config"]) == project.config


@pytest.fixture
def settings(tmp_path: Path):
    return make_settings(tmp_path)


def state(settings, version, bundle):
    return describe_challenger(settings, MODEL, version=version, digest=bundle.digest)["state"]


def test_there_may_be_no_challenger(settings):
    assert describe_challenger(settings, MODEL) is None
    assert describe_challenger(settings, MODEL, version=3) is None


def test_a_champion_from_before_configs_were_kept_is_no_reason_to_fail(settings):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(settings, "promote", 1, first.digest)
    told = describe_challenger(settings, MODEL, version=2, digest=second.digest)
    assert told["against"] == 1
    assert told["config_diff"] == [CONFIG_NOT_KNOWN]
    assert told["train"] is None
    assert told["trained_at"].startswith(f"{datetime.now(UTC):%Y-%m}")


def test_a_bundle_that_is_gone_is_described_as_far_as_it_is_known(settings):
    add(settings, "promote", 1, "a" * 64)
    told = describe_challenger(settings, MODEL, version=2, digest="b" * 64)
    assert (told["against"], told["passed"], told["state"], told["metrics"]) == (1, None, "none", [])
    assert told["size_bytes"] == {"challenger": None, "champion": None}


def test_what_became_of_a_challenger(settings):
    old, bundle = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(settings, "promote", 1, old.digest)
    register(settings, 2, bundle)
    assert state(settings, 2, bundle) == "waiting"
    add(settings, "shift", 2, bundle.digest, traffic={1: 90, 2: 10}, until=datetime(2999, 1, 1, tzinfo=UTC))
    assert state(settings, 2, bundle) == "waiting"
    add(settings, "revert", 2, bundle.digest, traffic={1: 100})
    assert state(settings, 2, bundle) == "reverted"
    add(settings, "refuse", 2, bundle.digest, traffic={1: 100})
    assert state(settings, 2, bundle) == "refused"
    add(settings, "promote", 2, bundle.digest)
    assert state(settings, 2, bundle) == "promoted"
    # a freeze is about the model, not about the version
    add(settings, "freeze", 2, bundle.digest)
    assert state(settings, 2, bundle) == "promoted"
    add(settings, "rollback", 1, old.digest)
    assert state(settings, 2, bundle) == "reverted"


def test_a_challenger_that_others_overtook(settings):
    old, bundle, newer = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    register(settings, 2, bundle)
    register(settings, 3, newer)
    assert state(settings, 2, bundle) == "superseded"
    assert state(settings, 3, newer) == "waiting"
    add(settings, "rollback", 1, old.digest)
    assert state(settings, 3, newer) == "superseded"


@pytest.mark.parametrize(("passed", "expected"), [(False, "refused"), (None, "none")])
def test_a_challenger_that_its_gates_did_not_pass(settings, passed, expected):
    bundle = make_bundle(settings, passed=passed)
    register(settings, 1, bundle, passed=passed)
    assert state(settings, 1, bundle) == expected
