"""`target: process`: a server that follows the ledger by itself, so that a release is a row and nothing else."""

import json
import logging
import os
import subprocess
import sys
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from windvane.bake_step import Counted
from windvane.config import ModelConfig
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.ledger import Release
from windvane.resolve_release import Plan
from windvane.settings import Settings

_REHEARSAL_SECONDS = 120
_POLL_SECONDS = 0.2
_MAX_OUTPUT = 1500

log = logging.getLogger(__name__)


class ProcessTarget:
    """One scoring server process on 127.0.0.1, started by the reconciler, that swaps bundles in place."""

    observe_seconds = 60.0
    # the server holds one version
    in_steps = False

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._config.deploy.port}"

    def prepare(self, plan: Plan) -> dict[str, Any]:
        """See that the server answers: a row that nobody follows would say what is not so."""
        give_up = time.monotonic() + self.observe_seconds / 2
        while True:
            try:
                return {"endpoint": f"{self._url}/invocations", "serving": (fetch_model(self._url)["serving"] or {}).get("version")}
            except ServiceUnavailable as exc:
                # the reconciler restarts a server that died, and starts that of a new model
                if time.monotonic() > give_up:
                    raise ServiceUnavailable(
                        f"{plan.model}: the scoring server does not answer: {exc}; it is started by `make up`, "
                        f"its log is {self._settings.var / 'logs' / f'scoring-{plan.model}.log'}"
                    ) from exc
                time.sleep(_POLL_SECONDS)

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """Score the golden rows, and replay rows, in a process like the one that serves."""
        command = [sys.executable, "-m", "windvane.scoring.rehearse", "--bundle", plan.digest]
        command += ["--replay", str(replay)] if replay else []
        try:
            done = subprocess.run(
                command,
                env=environment_of(self._settings),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_REHEARSAL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise RehearsalFailed(f"{plan.model} version {plan.version}: the rehearsal did not end within {_REHEARSAL_SECONDS} s") from exc
        return read_rehearsal(plan, status=done.returncode, output=done.stdout, errors=done.stderr)

    def shift(self, release: Release) -> None:
        """Nothing: the server follows the ledger."""

    def observe(self, plan: Plan) -> dict[str, Any]:
        """Wait until the server says that it serves the bundle."""
        began = time.monotonic()
        problem = ""
        while time.monotonic() - began < self.observe_seconds:
            try:
                state = fetch_model(self._url)
            except ServiceUnavailable as exc:
                problem = str(exc)
            else:
                serving, wanted = state["serving"] or {}, state.get("wanted") or {}
                if (serving.get("version"), serving.get("digest")) == (plan.version, plan.digest):
                    return {"endpoint": f"{self._url}/invocations", "seconds": round(time.monotonic() - began, 3)}
                if state.get("error") and wanted.get("digest") == plan.digest:
                    raise RolloutFailed(
                        f"{plan.model} version {plan.version}: the server could not load it: {state['error']}"[:_MAX_OUTPUT]
                    )
                problem = state.get("ledger_error") or f"it serves version {serving.get('version')}"
            time.sleep(_POLL_SECONDS)
        raise RolloutFailed(
            f"{plan.model} version {plan.version}: {self._url} did not serve it within {self.observe_seconds:.0f} s: {problem}"
        )

    def counts(self) -> dict[int, Counted]:
        """Nothing: nobody stands in front of the server."""
        return {}

    def promote(self, release: Release) -> None:
        """Nothing: the server holds one bundle."""

    def revert(self, release: Release) -> None:
        """Nothing: the server follows the ledger."""

    def align(self, release: Release) -> list[str]:
        """Nothing: the server follows the ledger."""
        return []


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a process that works for this installation."""
    # without byte code every start would compile the stack again
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | settings.as_environment() | {"OMP_NUM_THREADS": "1"}


def fetch_model(url: str, *, timeout_seconds: float = 2) -> dict[str, Any]:
    """Ask a scoring service what it serves.

    Raises:
        ServiceUnavailable: If it does not answer, or something else answers there.
    """
    try:
        # the endpoint is on this host: a proxy of the environment is not for it
        with build_opener(ProxyHandler({})).open(f"{url}/model", timeout=timeout_seconds) as response:
            value = json.load(response)
    except HTTPError as exc:
        value = _json_of(exc)
    except (OSError, HTTPException, ValueError) as exc:
        raise ServiceUnavailable(f"{url}/model: {getattr(exc, 'reason', None) or exc}") from exc
    if not isinstance(value, dict) or not {"model", "serving"} <= value.keys():
        raise ServiceUnavailable(f"{url}/model: something answers, but it is no scoring service of Windvane; see deploy.port")
    return value


def read_rehearsal(plan: Plan, *, status: int, output: str, errors: str) -> dict[str, Any]:
    """Read what `windvane.scoring.rehearse` printed.

    Raises:
        RehearsalFailed: If it says that the candidate misbehaved, or says nothing.
    """
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except ValueError:
        said = None
    if status == 0 and isinstance(said, dict):
        return said
    problem = said.get("error") if isinstance(said, dict) else None
    last_words = (errors.strip() or output.strip() or "it said nothing").splitlines()[-1]
    raise RehearsalFailed(
        f"{plan.model} version {plan.version} failed its rehearsal (exit status {status}): {(problem or last_words)[:_MAX_OUTPUT]}"
    )


def _json_of(error: HTTPError) -> Any:
    try:
        return json.load(error)
    except ValueError:
        return None
