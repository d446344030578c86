"""The process target: rehearsal in a process of its own, and an endpoint that is believed only when it says the digest."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.process_target import ProcessTarget, environment_of, fetch_model, read_rehearsal
from windvane.resolve_release import Plan

DIGEST = "a" * 64


def plan_of(digest=DIGEST, version=2):
    return Plan(MODEL, version, digest, rollback=False, epoch=1, reason="why", actor="test")


@contextmanager
def answering(*answers, status=200):
    """A server that gives the answers one after the other, and then the last one for ever."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = left.pop(0) if len(left) > 1 else left[0]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def state(version, digest, *, error=None, wanted=DIGEST):
    serving = {"version": version, "digest": digest} if version else None
    return {"model": MODEL, "serving": serving, "wanted": {"version": 2, "digest": wanted}, "error": error, "ledger_error": None}


def target_on(port, tmp_path, *, seconds=5.0):
    target = ProcessTarget(make_config(port=port), make_settings(tmp_path))
    target.observe_seconds = seconds
    return target


@pytest.mark.parametrize("port", [1], ids=["nobody listens"])
def test_an_endpoint_that_is_not_there_is_named(tmp_path, port):
    with pytest.raises(ServiceUnavailable, match=r"scoring server does not answer: http://127\.0\.0\.1:1/model: .*make up"):
        target_on(port, tmp_path, seconds=0.1).prepare(plan_of())


@pytest.mark.parametrize("answer", [b"<html>", {"hello": "there"}, []], ids=["no JSON", "other JSON", "list"])
def test_something_else_on_the_port_is_no_endpoint(answer):
    with answering(answer) as port, pytest.raises(ServiceUnavailable):
        fetch_model(f"http://127.0.0.1:{port}")


def test_the_shift_is_observed_when_the_digest_is_served(tmp_path):
    with answering(state(None, None), state(1, "b" * 64), state(2, DIGEST)) as port:
        seen = target_on(port, tmp_path).observe(plan_of())
    assert seen["endpoint"] == f"http://127.0.0.1:{port}/invocations"


def test_a_server_that_cannot_load_it_is_believed_at_once(tmp_path):
    with answering(state(1, "b" * 64, error="model.skops: changed")) as port, pytest.raises(RolloutFailed, match=r"model\.skops: changed"):
        target_on(port, tmp_path, seconds=30).observe(plan_of())


def test_an_old_error_about_another_bundle_is_not_about_this_one(tmp_path):
    old = state(1, "b" * 64, error="broken", wanted="c" * 64)
    with answering(old, state(2, DIGEST)) as port:
        assert target_on(port, tmp_path).observe(plan_of())


def test_a_server_that_keeps_serving_another_version_fails_the_rollout(tmp_path):
    with answering(state(1, "b" * 64)) as port, pytest.raises(RolloutFailed, match="it serves version 1"):
        target_on(port, tmp_path, seconds=0.5).observe(plan_of())


def test_a_good_bundle_rehearses_in_a_process_of_its_own(tmp_path):
    settings = make_settings(tmp_path)
    bundle = make_bundle(settings)
    seen = ProcessTarget(make_config(), settings).rehearse(plan_of(bundle.digest))
    assert seen["rows"] == 10
    assert seen["max_difference"] <= 1e-6


def test_a_damaged_bundle_fails_its_rehearsal(tmp_path):
    settings = make_settings(tmp_path)
    bundle = make_bundle(settings)
    (bundle.path / "golden.parquet").write_bytes(b"cut")
    with pytest.raises(RehearsalFailed, match=r"version 2 failed its rehearsal .*golden\.parquet"):
        ProcessTarget(make_config(), settings).rehearse(plan_of(bundle.digest))


@pytest.mark.parametrize(
    ("status", "output", "errors", "told"),
    [
        (0, "", "", "it said nothing"),
        (0, "not json", "", "not json"),
        (1, '{"error": "differs by 0.3"}', "a log", "differs by 0.3"),
        (-9, "", "", "exit status -9"),
        (1, "", "Traceback\nImportError: no skops", "no skops"),
    ],
    ids=["silent", "garbled", "different", "killed", "import error"],
)
def test_a_rehearsal_that_does_not_say_yes_is_a_no(status, output, errors, told):
    with pytest.raises(RehearsalFailed, match=told):
        read_rehearsal(plan_of(), status=status, output=output, errors=errors)


def test_children_work_for_the_same_installation(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    settings = make_settings(tmp_path)
    environment = environment_of(settings)
    assert environment["WINDVANE_VAR"] == str(settings.var)
    assert environment["WINDVANE_DB"] == settings.database
    assert "PYTHONDONTWRITEBYTECODE" not in environment
