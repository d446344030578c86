"""The client of Airflow's REST API: what it sends, and how it bears an expired token or a busy database."""

import pytest
from local_server import serve

from windvane import airflow_client
from windvane.airflow_client import AirflowClient
from windvane.errors import ServiceUnavailable, WindvaneError


class _Airflow:
    """Answers from a table and remembers the requests."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str, str | None, object]] = []
        self.tokens = 0

    def __call__(self, method, path, headers, body):
        if path == "/auth/token":
            self.tokens += 1
            return 201, {"access_token": f"token-{self.tokens}"}, {}
        self.seen.append((method, path, headers.get("Authorization"), body))
        status, value = self.answers.pop(0)
        return status, value, {}


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_client, "_PATIENCE_SECONDS", 0)


def _client(url: str) -> AirflowClient:
    return AirflowClient(url, user="admin", password="secret")


def test_a_run_is_started_without_a_logical_date() -> None:
    airflow = _Airflow((200, {"dag_run_id": "manual__1"}))
    with serve(airflow) as url:
        assert _client(url).trigger("m__train", {"window_start": "2013-01-01"}) == "manual__1"
    body = {"logical_date": None, "conf": {"window_start": "2013-01-01"}}
    assert airflow.seen == [("POST", "/api/v2/dags/m__train/dagRuns", "Bearer token-1", body)]


def test_a_backfill_runs_one_interval_after_the_other_also_again() -> None:
    airflow = _Airflow((200, {"id": 7}))
    with serve(airflow) as url:
        assert _client(url).backfill("m__ingest", first="2013-01-01", last="2013-02-01") == 7
    body = airflow.seen[0][3]
    assert isinstance(body, dict)
    assert (body["from_date"], body["to_date"], body["max_active_runs"], body["reprocess_behavior"]) == (
        "2013-01-01",
        "2013-02-01",
        1,
        "completed",
    )


def test_only_open_backfills_are_closed() -> None:
    airflow = _Airflow((200, {"backfills": [{"id": 1, "completed_at": "2026"}, {"id": 2, "completed_at": None}]}), (200, {}))
    with serve(airflow) as url:
        _client(url).close_backfills("m__ingest")
    assert [(method, path) for method, path, *_ in airflow.seen][1:] == [("PUT", "/api/v2/backfills/2/cancel")]


def test_an_expired_token_is_replaced_once() -> None:
    airflow = _Airflow((200, {"dags": []}), (401, {}), (200, {"dags": [{"dag_id": "a"}]}))
    with serve(airflow) as url:
        client = _client(url)
        client.dag_ids()
        assert client.dag_ids() == {"a"}
    assert [token for _, _, token, _ in airflow.seen] == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_all_dags_are_found_however_many() -> None:
    names = [f"m{number:03}__train" for number in range(130)]
    pages = [[{"dag_id": name} for name in part] for part in (names[:100], names[100:])]
    airflow = _Airflow(*((200, {"dags": page}) for page in pages))
    with serve(airflow) as url:
        assert _client(url).dag_ids() == set(names)
    assert ["offset=0" in airflow.seen[0][1], "offset=100" in airflow.seen[1][1]] == [True, True]


def test_run_ids_are_quoted() -> None:
    airflow = _Airflow((200, {"task_instances": []}))
    with serve(airflow) as url:
        _client(url).tasks("m__train", "manual__2013-01-01T00:00:00+00:00")
    assert airflow.seen[0][1] == "/api/v2/dags/m__train/dagRuns/manual__2013-01-01T00%3A00%3A00%2B00%3A00/taskInstances"


def test_a_task_that_returned_nothing_has_no_result() -> None:
    with serve(_Airflow((404, {}))) as url:
        assert _client(url).result("m__train", "r", "plan") is None


def test_an_error_tells_what_airflow_said() -> None:
    with (
        serve(_Airflow((400, {"detail": "window_start is no date"}))) as url,
        pytest.raises(WindvaneError, match=r"400.*window_start is no date"),
    ):
        _client(url).trigger("m__train")


def test_an_airflow_that_is_gone_is_named(no_patience: None) -> None:
    with serve(_Airflow()) as url:
        pass
    with pytest.raises(ServiceUnavailable, match=f"Airflow at {url} does not answer"):
        _client(url).dag_ids()
