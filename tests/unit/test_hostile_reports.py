"""Data that is an attack goes through the loop without Airflow: nothing of it becomes markup, and what is lost is said clearly."""

import json
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import hostile_team as hostile
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from training_project import _empty_mlflow

from windvane.bundle import open_bundle
from windvane.column_types import to_arrow
from windvane.commit_data import commit_data
from windvane.config import ModelConfig, code_path
from windvane.convert_onnx import convert_onnx
from windvane.detect_drift import ColumnDrift, Drift
from windvane.draw_report import draw_report
from windvane.errors import DataError
from windvane.extract_data import extract_data
from windvane.gate_challenger import gate_challenger
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.load_config import load_model_config
from windvane.model_code import ModelCode, load_model_code
from windvane.monitor_model import MonitorResult, monitor_window
from windvane.plot_evaluation import plot_evaluation
from windvane.predictor import load_predictor
from windvane.register_model import register_model
from windvane.score_window import score_window
from windvane.settings import Settings, load_settings
from windvane.snapshot import Snapshot, plan_training
from windvane.train_model import TrainingResult, train_model
from windvane.validate_data import Validation, validate_data
from windvane.windows import Window


@dataclass
class Walk:
    """The model after the whole loop."""

    config: ModelConfig
    code: ModelCode
    settings: Settings
    lake: Lake
    validations: list[Validation]
    training: TrainingResult
    decision: MonitorResult


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Walk:
    root = tmp_path_factory.mktemp("hostile")
    hostile.write_hostile_team(root, port=18100)
    shutil.copyfile(_empty_mlflow(), root / "mlflow.db")
    environ = {"WINDVANE_PROJECT": str(root), "WINDVANE_VAR": str(root / "var"), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    settings = load_settings(environ)
    config, code = load_model_config(root, hostile.MODEL), load_model_code(code_path(root, hostile.MODEL), hostile.MODEL)
    lake, ledger = Lake(settings.lake), Ledger(settings.database)
    validations = []

    def ingest(window: Window) -> None:
        staged = extract_data(config, code, settings, window=window, connection_uri=None)
        validation = validate_data(config, settings, staged, known_schema=lake.columns(config.model, "raw"))
        # as between tasks
        validations.append(Validation.from_json(json.loads(json.dumps(validation.as_json()))))
        commit_data(config, lake, validations[-1])

    ingest(hostile.TRAINED)
    snapshot = plan_training(config, code, lake, window=None, settings=settings, champion=None)
    snapshot = Snapshot.from_json(json.loads(json.dumps(snapshot.as_json())))
    training = train_model(config, code, settings, lake, snapshot)
    version = register_model(config, settings, bundle_digest=training.bundle_digest, run_id=training.run_id)
    challenger = open_bundle(settings.bundles, training.bundle_digest)
    verdict = gate_challenger(config, settings, lake, snapshot, challenger=challenger, champion=None)
    assert verdict.passed, verdict.table()
    ledger.append(
        config.model,
        expected_epoch=0,
        action="promote",
        version=version,
        digest=challenger.digest,
        traffic={version: 100},
        actor=hostile.IMAGE,
        reason=hostile.SCRIPT,
    )
    ingest(hostile.WATCHED)
    score_window(config, settings, lake, ledger, window=hostile.WATCHED)
    decision = monitor_window(config, code, settings, lake, ledger, window=hostile.WATCHED)
    return Walk(config, code, settings, lake, validations, training, decision)


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags_of(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.tags


def test_the_page_of_a_validation_has_no_tag_from_the_data(walk: Walk) -> None:
    for validation in walk.validations:
        assert validation.invalid_rows > 0
        ours = {*("html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "th", "td", "b", "code", "ul", "li", "p")}
        found = tags_of(validation.report_path)
        assert {tag for tag, _ in found} <= ours
        assert {name for _, given in found for name in given} <= {"lang", "charset", "http-equiv", "content", "name", "class"}


def test_the_report_of_a_window_has_no_tag_from_the_data(walk: Walk) -> None:
    page = walk.decision.report_path
    assert page is not None
    found = tags_of(page)
    assert {"img", "svg", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found} == set()
    assert [name for _, given in found for name in given if name.startswith("on")] == []
    assert [given for _, given in found for name in ("src", "href") if hostile.CANARY in str(given.get(name))] == []
    text = page.read_text(encoding="utf-8")
    assert [payload for payload in (hostile.SCRIPT, hostile.IMAGE, hostile.CLOSING, "<svg onload") if payload in text] == []


def test_what_is_told_to_people_is_bounded(walk: Walk) -> None:
    assert len(walk.decision.reason) < 2_000
    for validation in walk.validations:
        assert all(len(reason) <= 400 for reason in validation.reasons)
        assert len(json.dumps(validation.as_json())) < 20_000


def test_no_byte_of_a_cell_is_lost(walk: Walk) -> None:
    assert walk.code.read is not None
    given = walk.code.read(hostile.TRAINED, None).set_index(hostile.ID)
    kept = walk.lake.read(walk.config.model, "raw", window=hostile.TRAINED, time=walk.config.data.time).set_index(hostile.ID)
    quarantined = [json.loads(row) for row in walk.lake.read(walk.config.model, "quarantine")["row"]]
    assert set(map(str, kept.columns)) == set(map(str, given.columns))
    pd.testing.assert_series_equal(kept[hostile.CATEGORY], given.loc[kept.index, hostile.CATEGORY], check_dtype=False)
    assert {row[hostile.CATEGORY] for row in quarantined} == {hostile.MARKDOWN, hostile.LONG}


def test_the_model_answers_with_the_classes_as_they_are(walk: Walk) -> None:
    predictor = load_predictor(open_bundle(walk.settings.bundles, walk.training.bundle_digest))
    assert set(predictor.classes or ()) == set(hostile.CLASSES)
    assert walk.training.metrics["accuracy"] > 0.7


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b", "", 3])
def test_a_name_that_no_table_can_have_is_refused_by_name(name: object) -> None:
    with pytest.raises(DataError, match=r"here: column names must be texts without NUL, got .*; name every column"):
        to_arrow(pd.DataFrame({name: [1.0]}), where="here")


def test_names_that_a_table_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(DataError, match=r"more than once: Sum, sum \(upper and lower case are the same\)"):
        to_arrow(pd.DataFrame({"sum": [1.0], "Sum": [2.0]}), where="here")


@pytest.mark.parametrize("name", ["my column", "my-column", " ", "a.b/c\\d`e`", "{{ 1/0 }}", "🙂", "1st", hostile.SCRIPT])
def test_the_inputs_of_an_onnx_model_are_named_as_the_columns(name: str) -> None:
    onnx = pytest.importorskip("onnx")
    rows = pd.DataFrame({"x": np.arange(20.0), name: np.arange(20.0) ** 2, "my_column": 1.0})
    model = onnx.load_from_string(convert_onnx(LinearRegression().fit(rows, rows["x"]), rows, classifier=False))
    assert [item.name for item in model.graph.input] == ["x", name, "my_column"]


def test_numbers_that_no_histogram_can_tell_apart_lose_no_decision(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.full(300, float(2**63 - 1))})
    usual = ColumnDrift(column="x", kind="number", score=0.1, threshold=0.2, drifted=False, how="nothing")
    drift = Drift(columns=(usual,), rows=300)
    path = draw_report(frame, frame, drift, decision="ok", reason="it is", evidence=[], path=tmp_path / "drift.html", seed=1)
    assert "Decision: ok" in path.read_text()
    assert "could not be drawn" in path.read_text()


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", hostile.EMOJI, hostile.CONTROLS, "a$b$c", ""])
def test_names_are_drawn_whatever_they_are(tmp_path: Path, name: str) -> None:
    outcomes, scores = np.array([0, 1] * 20), np.linspace(0, 1, 40)
    importance = {name: 0.2, f"{hostile.LONG} 1": 0.1, f"{hostile.LONG} 2": 0.3}
    made = plot_evaluation(
        tmp_path, task="binary_classification", outcomes=outcomes, scores=scores, classes=["", name], importance=importance
    )
    assert len(made) == 4
    assert all(path.stat().st_size > 3_000 for path in made)
