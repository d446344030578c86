"""What of the Docker target needs no engine."""

import time
from dataclasses import replace

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

from windvane.build_image import _tar
from windvane.connect_docker import project_of
from windvane.docker_target import DockerTarget, _locked
from windvane.endpoint_url import endpoint_url
from windvane.errors import ServiceUnavailable
from windvane.haproxy_control import Backend, HaproxyControl, ServerState, write_config
from windvane.resolve_release import Plan


def test_no_engine_is_named_with_the_fix_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    settings = make_settings(tmp_path)
    plan = Plan(MODEL, 1, make_bundle(settings).digest, rollback=False, epoch=0, reason="why", actor="test")
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"Docker at unix://.*no\.sock does not answer.*deploy\.target: process"):
        DockerTarget(make_config(target="docker"), settings).prepare(plan)
    assert time.monotonic() - began < 30


def test_installations_do_not_touch_each_other(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert project_of(make_settings(tmp_path / "a")) != project_of(make_settings(tmp_path / "b"))


def test_the_same_content_makes_the_same_build_context():
    files = {"bundle/model.py": b"x = 1\n", "Dockerfile": b"FROM scratch\n"}
    assert _tar(files).getvalue() == _tar(dict(reversed(files.items()))).getvalue()


@pytest.mark.parametrize(("share", "weight"), [(1.0, 256), (0.1, 26), (0.001, 1), (0.0, 0)])
def test_a_share_becomes_a_weight(share, weight):
    assert Backend("v1-0", "172.18.0.2:8080", share).weight == weight


def test_the_configuration_file_names_every_server_once(tmp_path):
    backends = [Backend("v2-0", "172.18.0.3:8080", 0.1), Backend("v1-0", "172.18.0.2:8080", 0.9)]
    assert write_config(tmp_path, backends)
    assert not write_config(tmp_path, reversed(backends))
    text = (tmp_path / "haproxy.cfg").read_text()
    assert [line.split()[1:3] for line in text.splitlines() if line.strip().startswith("server ")] == [
        ["v1-0", "172.18.0.2:8080"],
        ["v2-0", "172.18.0.3:8080"],
    ]
    assert "$" not in text


def test_a_closed_endpoint_gives_scores_and_health_only(tmp_path):
    backends = [Backend("v1-0", "172.18.0.2:8080", 1.0)]
    write_config(tmp_path, backends)
    assert "http-request deny deny_status 403" not in (tmp_path / "haproxy.cfg").read_text()
    assert write_config(tmp_path, backends, closed=True)
    published, inside = (tmp_path / "haproxy.cfg").read_text().split("frontend inside")
    assert "http-request deny deny_status 403 unless { path /invocations " in published
    assert "deny_status 403" not in inside


def test_the_platform_reaches_an_endpoint_where_it_runs(tmp_path):
    settings, config = make_settings(tmp_path), make_config(target="docker")
    assert endpoint_url(config, settings) == f"http://127.0.0.1:{config.deploy.port}"
    within = replace(settings, network="somewhere_endpoints")
    assert endpoint_url(config, within) == f"http://{MODEL.replace('_', '-')}-endpoint:8081"


@pytest.mark.parametrize(
    ("status", "check", "healthy"),
    [
        ("UP", "L7OK", True),
        ("DRAIN", "* L7OK", True),
        ("UP", "", False),
        ("UP", "INI", False),
        ("DOWN", "L4CON", False),
        ("MAINT", "L7OK", False),
    ],
)
def test_a_server_is_healthy_only_after_a_check(status, check, healthy):
    assert ServerState("v1-0", "172.18.0.2:8080", status, check, 0, 0).healthy is healthy


def test_an_haproxy_that_does_not_run_is_named(tmp_path):
    with pytest.raises(ServiceUnavailable, match=r"haproxy: .*admin\.sock"):
        HaproxyControl(tmp_path).wait_until_up(seconds=0.2)


def test_the_reconciler_does_not_wait_for_a_deployment_and_a_deployment_says_what_it_waits_for(tmp_path):
    with _locked(tmp_path / "churn", seconds=0) as first, _locked(tmp_path / "churn", seconds=0) as second:
        assert first
        assert not second
        with pytest.raises(ServiceUnavailable, match="another deployment"), _locked(tmp_path / "churn", seconds=0.3):
            pass
