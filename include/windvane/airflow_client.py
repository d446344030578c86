"""A small client of Airflow's REST API v2, as a user would write it."""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from windvane.call_local import local_session
from windvane.errors import ServiceUnavailable, WindvaneError

_TIMEOUT_SECONDS = 30
_PATIENCE_SECONDS = 60
_PAGE = 100


class AirflowClient:
    """Speaks to one Airflow as one user; a token is fetched when needed.

    Args:
        url: Address of the web server, without a path.
        user: Name of the user.
        password: The user's password.
        page: Address for people, where it is another.
    """

    def __init__(self, url: str, *, user: str, password: str, page: str = "") -> None:
        self.url = url.rstrip("/")
        self._page = (page or url).rstrip("/")
        self._credentials = {"username": user, "password": password}
        self._session = local_session()

    def dag_ids(self) -> set[str]:
        """Ids of the DAGs that Airflow knows and that are not paused."""
        found: set[str] = set()
        while True:
            asked = {"limit": _PAGE, "offset": len(found), "paused": False, "order_by": "dag_id"}
            page = self._request("GET", "/dags", params=asked)["dags"]
            found |= {dag["dag_id"] for dag in page}
            if len(page) < _PAGE:
                return found

    def import_errors(self) -> list[str]:
        """What kept DAG files from being read: last lines of the traces."""
        errors = self._request("GET", "/importErrors", params={"limit": _PAGE})["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._request("POST", f"/dags/{quote(dag_id)}/dagRuns", json=body)["dag_run_id"])

    def pause(self, dag_id: str) -> None:
        """Let no run of a DAG start until somebody resumes it."""
        self._request("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": True})

    def backfill(self, dag_id: str, *, first: str, last: str) -> int:
        """Run the intervals that begin from `first` to `last` (ISO 8601), one after the other, also if they ran before."""
        body = {
            "dag_id": dag_id,
            "from_date": first,
            "to_date": last,
            "run_backwards": False,
            "dag_run_conf": {},
            "reprocess_behavior": "completed",
            "max_active_runs": 1,
        }
        return int(self._request("POST", "/backfills", json=body)["id"])

    def close_backfills(self, dag_id: str) -> None:
        """End the backfills of a DAG; Airflow keeps one open for a while after its last run, and allows no other until then."""
        for backfill in self._request("GET", "/backfills", params={"dag_id": dag_id, "limit": _PAGE})["backfills"]:
            if backfill["completed_at"] is None:
                self._request("PUT", f"/backfills/{backfill['id']}/cancel")

    def runs(self, *, limit: int = _PAGE) -> list[dict[str, Any]]:
        """The newest runs of all DAGs, newest first."""
        found: list[dict[str, Any]] = self._request("GET", "/dags/~/dagRuns", params={"order_by": "-id", "limit": limit})["dag_runs"]
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        found: list[dict[str, Any]] = self._request("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"]
        return found

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned; None if it returned nothing."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/return_value"
        try:
            return self._request("GET", path, params={"deserialize": True})["value"]
        except NotFound:
            return None

    def run_url(self, dag_id: str, run_id: str) -> str:
        """The page of a run in the UI."""
        return f"{self._page}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"

    def _request(self, method: str, path: str, **options: Any) -> Any:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if "Authorization" not in self._session.headers:
                    self._log_in()
                response = self._session.request(method, f"{self.url}/api/v2{path}", timeout=_TIMEOUT_SECONDS, **options)
            except (requests.ConnectionError, requests.Timeout) as exc:
                # reading again harms nobody; the web server may be on its way back
                if method != "GET" or time.monotonic() > give_up:
                    raise ServiceUnavailable(f"Airflow at {self.url} does not answer: {type(exc).__name__}; see `make status`") from exc
                time.sleep(1)
                continue
            if response.status_code == 401 and self._forget_token() and time.monotonic() < give_up:
                continue
            # the database of the embedded platform has one writer at a time, another one may be starting
            unavailable = response.status_code == 503 or (method == "GET" and response.status_code >= 500)
            if unavailable and time.monotonic() < give_up:
                time.sleep(1)
                continue
            return _content(response, f"{method} {path}")

    def _forget_token(self) -> bool:
        known = "Authorization" in self._session.headers
        if known:
            del self._session.headers["Authorization"]
        return known

    def _log_in(self) -> None:
        response = self._session.post(f"{self.url}/auth/token", json=self._credentials, timeout=_TIMEOUT_SECONDS)
        token = _content(response, "POST /auth/token")["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"


class NotFound(WindvaneError):
    """Airflow has no such thing."""


def _content(response: requests.Response, what: str) -> Any:
    if response.status_code == 404:
        raise NotFound(f"Airflow: {what}: there is no such thing")
    if not response.ok:
        raise WindvaneError(f"Airflow: {what}: answers {response.status_code}: {response.text[:300]}")
    return response.json() if response.content else None


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"
