"""The parts of the demo that need no platform: its months, its judgement, its summary."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from windvane import judge_demo, run_demo, summarize_demo
from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.load_config import load_config
from windvane.reach_platform import Reached
from windvane.send_traffic import Traffic, TrafficSender
from windvane.settings import REPOSITORY, Settings, load_settings
from windvane.windows import Window

JULY = run_demo._months("2013-07")[-1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_PROJECT": str(REPOSITORY)})


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    monkeypatch.delenv("WINDVANE_TARGET", raising=False)
    return load_config(REPOSITORY / "dags" / "configs" / "flight_delay.yaml")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    book = Ledger(settings.database)
    yield book
    book.close()


class _Traffic(TrafficSender):
    def __init__(self, *, sent: int, failed: int, seconds: float) -> None:
        super().__init__("http://127.0.0.1:1/invocations")
        self.counts = Traffic(sent=sent, rows=sent, failed=failed)
        self._began, self._ended = 0.0, seconds


@pytest.fixture(autouse=True)
def agreement(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What the endpoint and the alias say, without either."""
    says: dict[str, int | None] = {"endpoint": None, "alias": None}
    monkeypatch.setattr(judge_demo, "_AGREEMENT_SECONDS", 0)
    monkeypatch.setattr(judge_demo, "endpoint_version", lambda config, settings: says["endpoint"])
    monkeypatch.setattr(judge_demo, "get_alias", lambda settings, model, alias: (says["alias"], None) if says["alias"] else None)
    return says


def _promote(ledger: Ledger, *versions: int) -> None:
    for epoch, version in enumerate(versions):
        ledger.append(
            "flight_delay",
            expected_epoch=epoch,
            action="promote",
            version=version,
            digest=f"{version}" * 64,
            traffic={version: 100},
            actor="test",
            reason="passed",
        )


def test_months_are_whole_and_follow_each_other() -> None:
    months = run_demo._months("2013-12")
    assert len(months) == 12
    assert all(before.end == after.start for before, after in pairwise(months))
    assert months[-1] == run_demo.YEAR.tail(months[-1].end - months[-1].start)


@pytest.mark.parametrize("until", ["2013-02", "2014-01", "July", ""])
def test_a_month_without_a_story_is_refused(until: str) -> None:
    with pytest.raises(ConfigError, match="--until"):
        run_demo._months(until)


@pytest.mark.parametrize(("target", "environ", "named"), [("foo", "", "--target"), (None, "foo", "WINDVANE_TARGET")])
def test_an_unknown_target_is_refused_before_the_platform_is_touched(monkeypatch: pytest.MonkeyPatch, target, environ, named) -> None:
    monkeypatch.setenv("WINDVANE_TARGET", environ)
    monkeypatch.setattr(run_demo, "reach_platform", lambda *_, **__: pytest.fail("the platform was started"))
    with pytest.raises(ConfigError, match=f"{named}: got 'foo', allowed are process, docker, kubernetes"):
        run_demo.run_demo(until="2013-07", target=target)


def test_a_retrained_version_and_clean_traffic_are_a_success(settings, config, ledger, agreement) -> None:
    _promote(ledger, 1, 3)
    agreement.update(endpoint=3, alias=3)
    assert judge_demo.judge_demo(config, settings, ledger, _Traffic(sent=300, failed=0, seconds=10), until=JULY) == []


@pytest.mark.parametrize(
    ("versions", "sent", "failed", "problem"),
    [
        pytest.param((1,), 300, 0, "no retrained version was promoted by July", id="never retrained"),
        pytest.param((1, 1), 300, 0, "no retrained version was promoted by July", id="the same version again"),
        pytest.param((1, 2), 300, 1, "1 requests failed", id="a failed request"),
        pytest.param((1, 2), 199, 0, "only 19.9 requests a second", id="too slow"),
        pytest.param((1, 2), 0, 0, "only 0.0 requests a second", id="no traffic"),
    ],
)
def test_what_did_not_hold_is_a_failure(settings, config, ledger, agreement, versions, sent, failed, problem) -> None:
    _promote(ledger, *versions)
    agreement.update(endpoint=versions[-1], alias=versions[-1])
    (found,) = judge_demo.judge_demo(config, settings, ledger, _Traffic(sent=sent, failed=failed, seconds=10), until=JULY)
    assert problem in found


@pytest.mark.parametrize("who", ["endpoint", "alias"])
def test_disagreement_on_what_serves_is_a_failure(settings, config, ledger, agreement, who) -> None:
    _promote(ledger, 1, 3)
    agreement.update({"endpoint": 3, "alias": 3, who: 1})
    (found,) = judge_demo.judge_demo(config, settings, ledger, _Traffic(sent=300, failed=0, seconds=10), until=JULY)
    assert f"{who} says 1" in found


def test_the_summary_says_where_everything_is_and_what_failed(settings: Settings, config: ModelConfig) -> None:
    platform = Reached("", "", "http://127.0.0.1:8123", "http://127.0.0.1:5123", "some.json", "make down")
    text = summarize_demo.summarize_demo(config, settings, platform, _Traffic(sent=10, failed=0, seconds=1), problems=["no version"])
    for wanted in (
        "http://127.0.0.1:8123",
        "http://127.0.0.1:5123",
        "http://127.0.0.1:8100/invocations",
        "curl -s",
        "make down",
        "FAILED: no version",
    ):
        assert wanted in text
    assert "Every step did what it should" not in text


def _decided(settings: Settings, month: Window, decision: str) -> None:
    row = pd.DataFrame(
        {
            "window_key": [month.key],
            "window_start": pd.to_datetime([month.start], utc=True).as_unit("us"),
            "window_end": pd.to_datetime([month.end], utc=True).as_unit("us"),
            "decision": [decision],
            "reason": [f"because of {month.start:%B}"],
            "version": pd.array([1], dtype="Int64"),
        }
    )
    Lake(settings.lake).replace_rows("flight_delay", "decisions", row, key="window_key", values=[month.key])


def _trained(settings: Settings, month: Window, version: int, *, passed: bool) -> None:
    run = settings.reports / "flight_delay" / "runs" / "flight_delay__train" / f"run {version}"
    run.mkdir(parents=True)
    judged_until = month.end - timedelta(days=1)
    (run / "plan.json").write_text(json.dumps({"holdout": {"window_end": judged_until.isoformat()}}))
    gates = [{"name": "floor", "passed": True, "reason": "fine."}, {"name": "linear", "passed": passed, "reason": "worse than a line."}]
    (run / "gate.json").write_text(json.dumps({"version": version, "passed": passed, "gates": gates}))


def test_the_summary_tells_for_each_month_what_followed_from_the_decision(settings, config, ledger) -> None:
    months = run_demo._months("2013-07")
    for month, decision in zip(months[2:], ["retrain", "retrain", "ok", "retrain", "retrain"], strict=True):
        _decided(settings, month, decision)
    _trained(settings, months[2], 2, passed=False)
    _trained(settings, months[3], 3, passed=True)
    _trained(settings, months[5], 4, passed=True)
    _promote(ledger, 1, 3)
    for epoch, (action, version, serves) in enumerate([("revert", 4, 3), ("rollback", 1, 1)], start=2):
        row = {"expected_epoch": epoch, "digest": f"{version}" * 64, "traffic": {serves: 100}, "actor": "test", "reason": "too slow"}
        ledger.append("flight_delay", action=action, version=version, **row)
    text = summarize_demo._told(config, settings, ledger)
    assert text == [
        "Changes of what serves   version 1, version 3, version 4 was taken back, back to version 1",
        "Decisions",
        "  March 2013: retrain: because of March",
        "    -> version 2 was refused: worse than a line.",
        "  April 2013: retrain: because of April",
        "    -> version 3 was promoted",
        "  May 2013: ok: because of May",
        "  June 2013: retrain: because of June",
        "    -> version 4 was taken back: too slow",
        "  July 2013: retrain: because of July",
        "    -> no challenger was judged",
    ]
