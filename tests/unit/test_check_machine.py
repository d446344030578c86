"""`windvane doctor` names what would keep the platform from working."""

import re
from pathlib import Path

import pytest
from s3_server import S3

from windvane import check_machine as checking
from windvane.check_machine import check_machine
from windvane.object_path import ObjectPath
from windvane.settings import REPOSITORY, Settings, load_settings


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    # the real client leaks its socket when no engine answers
    monkeypatch.setattr(checking, "_engine_version", lambda: None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


def _states(settings: Settings) -> dict[str, str]:
    return {finding.subject: finding.state for finding in check_machine(settings)}


def test_this_machine_can_run_the_platform(settings: Settings) -> None:
    states = _states(settings)
    assert states["python"] == "ok"
    assert states["state"] == "ok"
    assert states["platform"] == "ok"


def test_little_disk_is_a_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_MIN_FREE_GB", 1e9)
    assert _states(settings)["disk"] == "problem"


def test_byte_code_that_is_switched_off_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert _states(settings)["PYTHONDONTWRITEBYTECODE"] == "warning"


def test_packages_that_are_not_the_pinned_ones_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "requests[socks]==0.0.1 ; python_version >= '3'\nnot-there==1  # a reason\n    # via nothing\n"
        "pywin32==1 ; sys_platform == 'nowhere'\n"
    )
    (finding,) = checking._packages(lock)
    assert finding.state == "problem"
    assert "requests is " in finding.text
    assert "not-there is not installed, pinned is 1" in finding.text
    assert "pywin32" not in finding.text
    assert "make up" in finding.text
    assert re.search(r"^up:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_packages_that_were_installed_here_are_the_pinned_ones() -> None:
    (finding,) = checking._packages(REPOSITORY / "requirements.txt")
    assert finding.state == "ok", finding.text


def test_a_setting_that_is_no_port_is_a_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDVANE_AIRFLOW_PORT", "http")
    assert _states(settings)["WINDVANE_AIRFLOW_PORT"] == "problem"


def test_docker_is_needed_only_if_a_config_wants_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINDVANE_TARGET", raising=False)
    assert _states(settings)["docker"] == "ok"
    config = settings.project / "dags" / "configs" / "churn.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("model: churn\ntask: regression\ndata: {time: t, label: y}\ndeploy: {target: docker}\n")
    assert _states(settings)["docker"] == "problem"


def test_an_object_store_is_tried_and_left_as_it_was(root: ObjectPath, tmp_path: Path) -> None:
    settings = load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_PROJECT": str(tmp_path), "WINDVANE_LAKE": str(root / "lake")})
    found = {finding.subject: finding for finding in check_machine(settings)}
    assert found["lake"].state == "ok", found["lake"].text
    assert "bundles" not in found
    assert list(root.objects()) == []


@pytest.mark.parametrize("ignored", [True, False], ids=["no conditions", "no permission"])
def test_an_object_store_that_cannot_be_used_is_a_problem(
    root: ObjectPath, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    if ignored:
        # as a store that does not know If-None-Match does
        monkeypatch.setattr(ObjectPath, "create", lambda place, content: place.write_bytes(content) is None)
    else:
        s3.fail("PUT", ".windvane-probe", status=403, times=10)
    settings = load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_PROJECT": str(tmp_path), "WINDVANE_REPORTS": str(root)})
    found = {finding.subject: finding for finding in check_machine(settings)}["reports"]
    assert found.state == "problem"
    assert ("of two writers both would win" if ignored else "403 Forbidden") in found.text
