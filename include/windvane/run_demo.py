"""The story of the flights of 2013: from nothing to a model that is served, watched and retrained, through real DAG runs.

Everything here is what a user could do by hand: start the platform, ask Airflow for runs by REST, send scoring requests. What
follows from that (monitoring, the decision, training, deployment) happens by itself.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from windvane.airflow_client import AirflowClient
from windvane.config import ModelConfig, code_path
from windvane.decision_evidence import TRAININGS
from windvane.endpoint_url import endpoint_url
from windvane.errors import ConfigError, WindvaneError
from windvane.judge_demo import endpoint_version, judge_demo, serving_version
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.load_config import check_target, load_model_config, read_target
from windvane.model_code import load_model_code
from windvane.reach_platform import USER, Reached, borrowed_key, reach_platform
from windvane.send_traffic import TrafficSender
from windvane.settings import Settings, load_settings
from windvane.show_progress import Progress, draw_picture
from windvane.summarize_demo import summarize_demo
from windvane.watch_runs import RunSeen, RunWatcher
from windvane.windows import Window

MODEL = "flight_delay"
YEAR = Window(datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC))
_BEFORE_THE_FIRST_VERSION = 2  # months
_MIN_TRAFFIC_SECONDS = 5
_ROWS_PER_REQUEST = 300
_RUN_SECONDS = 900
_EVENT_SECONDS = 120
_ENDPOINT_SECONDS = 300


class DemoFailed(WindvaneError):
    """A step of the story did not do what it should."""


def run_demo(*, until: str, target: str | None = None) -> int:
    """Run the story, or go on with it.

    Args:
        until: The last month, such as 2013-07.
        target: `process` or `docker`, instead of what the config says.

    Returns:
        The exit status: 0 only if every step did what it should.

    Raises:
        ConfigError: If there is no such month or target; then nothing was touched.
    """
    months = _months(until)
    if check_target(target, "--target"):
        os.environ["WINDVANE_TARGET"] = str(target)
    read_target()
    settings = load_settings()
    story: _Story | None = None
    with (
        borrowed_key(settings, MODEL) as key,
        Progress(lambda: draw_picture(story.step, story.watcher.unfinished(), story.traffic) if story else "") as progress,
    ):
        try:
            platform, settings = reach_platform(settings, say=progress.say)
            story = _open_story(settings, platform, key, progress.say)
            story.run(months)
        except KeyboardInterrupt:
            progress.say("Stopped. The platform stays up: the same command goes on from here")
            return 130
        except WindvaneError as exc:
            progress.say(f"The demo failed: {exc}", style="red")
            progress.say("The platform stays up if it was: the same command goes on from here")
            return 1
        finally:
            if story:
                story.traffic.stop()
    problems = judge_demo(story.config, settings, story.ledger, story.traffic, until=months[-1])
    print(summarize_demo(story.config, settings, platform, story.traffic, problems=problems))
    return 1 if problems else 0


def _open_story(settings: Settings, platform: Reached, key: str, say: Callable[[str], None]) -> "_Story":
    config = load_model_config(settings.project, MODEL)
    client = AirflowClient(platform.airflow, user=USER, password=platform.password, page=platform.airflow_url)
    return _Story(
        settings=settings,
        config=config,
        client=client,
        watcher=RunWatcher(client, MODEL, say=say),
        traffic=TrafficSender(f"{endpoint_url(config, settings)}/invocations", key=key),
        say=say,
    )


@dataclass
class _Story:
    settings: Settings
    config: ModelConfig
    client: AirflowClient
    watcher: RunWatcher
    traffic: TrafficSender
    say: Callable[[str], None]
    step: str = ""
    flights: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        self.lake = Lake(self.settings.lake)
        self.ledger = Ledger(self.settings.database)

    def run(self, months: list[Window]) -> None:
        """The whole of it; what is done already is not done again."""
        self._begin("Waiting until Airflow knows the DAGs")
        self._wait_for_dags()
        self._begin("Letting runs of earlier go on to their end")
        self._need(self.watcher.wait(lambda: not self.watcher.unfinished(), timeout_seconds=_RUN_SECONDS), "runs of earlier did not end")
        # what serving sees of a flight: never its outcome
        self.flights = self._read_flights()
        self._ingest_history(months[:_BEFORE_THE_FIRST_VERSION])
        if serving_version(self.ledger, MODEL) is None:
            self._train_first_version()
        self._wait_for_endpoint()
        self._go_on(months)
        for month in months[_BEFORE_THE_FIRST_VERSION:]:
            if not self._is_ingested(month):
                self._live_through(month)
        self._send_enough(months[-1])

    def _begin(self, step: str) -> None:
        self.step = step
        self.say(step)

    def _need(self, value: Any, problem: str) -> Any:
        if not value:
            raise DemoFailed(problem)
        return value

    def _wait_for_dags(self) -> None:
        wanted = {f"{MODEL}__{kind}" for kind in ("ingest", "train", "deploy", "monitor", "score")}
        give_up = time.monotonic() + _EVENT_SECONDS
        while missing := wanted - self.client.dag_ids():
            if time.monotonic() > give_up:
                errors = "; ".join(self.client.import_errors()) or f"see {self.settings.var / 'logs' / 'airflow.log'}"
                raise DemoFailed(f"Airflow does not know {', '.join(sorted(missing))}: {errors}")
            time.sleep(0.5)
        self.client.close_backfills(f"{MODEL}__ingest")

    def _read_flights(self) -> pd.DataFrame:
        code = load_model_code(code_path(self.settings.project, MODEL), MODEL)
        if code.read is None:
            raise DemoFailed(f"include/models/{MODEL}.py has no read()")
        return pd.DataFrame(code.read(YEAR, None)).drop(columns=[self.config.data.label])

    def _of(self, month: Window) -> pd.DataFrame:
        time_of = self.flights[self.config.data.time]
        return self.flights[(time_of >= month.start) & (time_of < month.end)]

    def _is_ingested(self, month: Window) -> bool:
        return any(committed.window == month for committed in self.lake.windows(MODEL))

    def _ingest_history(self, months: list[Window]) -> None:
        missing = [month for month in months if not self._is_ingested(month)]
        if missing:
            self._begin(f"Airflow backfills {MODEL}__ingest for {' and '.join(f'{month.start:%B}' for month in missing)}")
            self._ingest(missing)

    def _ingest(self, months: list[Window]) -> None:
        dag_id = f"{MODEL}__ingest"
        began = datetime.now(UTC)
        self.client.close_backfills(dag_id)
        self.client.backfill(dag_id, first=months[0].start.isoformat(), last=months[-1].start.isoformat())

        def ended() -> Any:
            failed = [run for run in self.watcher.of("ingest") if run.state == "failed" and run.ended and run.ended > began]
            running = [run for run in self.watcher.of("ingest") if not run.is_final]
            return failed[0] if failed else not running and all(map(self._is_ingested, months))

        done = self.watcher.wait(ended, timeout_seconds=_RUN_SECONDS)
        self._need(done, f"{dag_id} did not end")
        self._refuse_failure(done)

    def _train_first_version(self) -> None:
        self._begin("The first version is trained")
        known = self._runs_so_far()
        self.client.trigger(f"{MODEL}__train")
        self._follow_training(known, must_pass=True)

    def _live_through(self, month: Window) -> None:
        self._begin(f"{month.start:%B}: flights are scored as they leave")
        self.traffic.send_all(self._of(month), rows_per_request=_ROWS_PER_REQUEST)
        sent = self.watcher.wait(lambda: self.traffic.all_sent, timeout_seconds=_RUN_SECONDS)
        self._need(sent, "the endpoint is too slow")
        self._begin(f"{month.start:%B}: outcomes arrive")
        known = self._runs_so_far()
        self._ingest([month])
        self._follow_monitoring(month, known)

    def _go_on(self, months: list[Window]) -> None:
        """Take up what an earlier demo left undone in the newest month."""
        ingested = [month for month in months[_BEFORE_THE_FIRST_VERSION:] if self._is_ingested(month)]
        if not ingested:
            return
        month = ingested[-1]
        decided = self.lake.read(MODEL, "decisions")
        rows = decided[decided["window_key"] == month.key].to_dict("records") if len(decided) else []
        if rows and (rows[-1]["decision"] not in TRAININGS or rows[-1]["version"] != serving_version(self.ledger, MODEL)):
            return
        self._begin(f"{month.start:%B}: going on where it was left")
        self.traffic.send_all(self._of(month), rows_per_request=_ROWS_PER_REQUEST)
        known = self._runs_so_far()
        self.client.trigger(f"{MODEL}__monitor", month.as_extra())
        self._follow_monitoring(month, known)

    def _follow_monitoring(self, month: Window, known: set[str]) -> None:
        """Wait for the decision on a month, and for all that follows from it."""
        self.step = f"{month.start:%B}: the monitor decides"

        def decided() -> Any:
            for run in self._new("monitor", known):
                result = run.result("decide")
                if run.is_final and result and Window.from_extra(result) and datetime.fromisoformat(result["window_end"]) >= month.end:
                    return run
            return self._failed_since("monitor", known)

        run = self._need(self.watcher.wait(decided, timeout_seconds=_RUN_SECONDS), f"{MODEL}__monitor did not decide on {month}")
        self._refuse_failure(run)
        if run.result("decide")["decision"] in TRAININGS:
            self.step = f"{month.start:%B}: a challenger is trained"
            self._follow_training(known, must_pass=False)

    def _follow_training(self, known: set[str], *, must_pass: bool) -> None:
        run = self._finished("train", known)
        verdict = run.result("gate")
        if not verdict["passed"]:
            reasons = "; ".join(f"{gate['name']}: {gate['reason']}" for gate in verdict["gates"] if not gate["passed"])
            if must_pass:
                raise DemoFailed(f"the first version did not pass its gates: {reasons}")
            return
        self.step = f"version {verdict['version']} is deployed"
        self._finished("deploy", known)
        self._wait_for_endpoint()

    def _finished(self, kind: str, known: set[str]) -> RunSeen:
        dag_id = f"{MODEL}__{kind}"
        self._need(self.watcher.wait(lambda: self._new(kind, known), timeout_seconds=_EVENT_SECONDS), f"no event started {dag_id}")
        done = self.watcher.wait(
            lambda: next((run for run in self._new(kind, known) if run.is_final), None),
            timeout_seconds=_RUN_SECONDS,
        )
        run: RunSeen = self._need(done, f"{dag_id} did not end within {_RUN_SECONDS} s")
        self._refuse_failure(run)
        return run

    def _wait_for_endpoint(self) -> None:
        give_up = time.monotonic() + _ENDPOINT_SECONDS
        while (serving := serving_version(self.ledger, MODEL)) is None or endpoint_version(self.config, self.settings) != serving:
            if time.monotonic() > give_up:
                raise DemoFailed(f"the endpoint serves {endpoint_version(self.config, self.settings)}, the ledger says {serving}")
            time.sleep(0.2)

    def _send_enough(self, month: Window) -> None:
        """Measure on long enough traffic, also on the version that came last, and also when nothing was left to do."""
        if self.traffic.seconds == 0:
            self._begin(f"{month.start:%B}: its flights are scored once more")
            self.traffic.send_all(self._of(month), rows_per_request=_ROWS_PER_REQUEST)
        enough = self.traffic.seconds + _MIN_TRAFFIC_SECONDS
        while not self.traffic.all_sent or self.traffic.seconds < enough:
            time.sleep(0.2)
        self.traffic.stop()

    def _runs_so_far(self) -> set[str]:
        self.watcher.poll()
        return set(self.watcher.runs)

    def _new(self, kind: str, known: set[str]) -> list[RunSeen]:
        return [run for key, run in self.watcher.runs.items() if key not in known and run.dag_id == f"{MODEL}__{kind}"]

    def _failed_since(self, kind: str, known: set[str]) -> RunSeen | None:
        return next((run for run in self._new(kind, known) if run.state == "failed"), None)

    def _refuse_failure(self, run: Any) -> None:
        if isinstance(run, RunSeen) and run.state == "failed":
            tasks = ", ".join(task.task_id for task in run.tasks.values() if task.state == "failed")
            last = self.ledger.last(MODEL)
            taken_back = last and run.dag_id == f"{MODEL}__deploy" and last.action in ("revert", "refuse")
            why = f" ({last.action} of version {last.version}: {last.reason})" if last and taken_back else ""
            raise DemoFailed(f"{run.dag_id}: {tasks or 'the run'} failed{why}; its log: {self.client.run_url(run.dag_id, run.run_id)}")


def _months(until: str) -> list[Window]:
    try:
        last = datetime.strptime(until, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as exc:
        raise ConfigError([f"--until: got {until!r}, allowed is a month from 2013-03 to 2013-12"]) from exc
    if not datetime(2013, 3, 1, tzinfo=UTC) <= last < YEAR.end:
        raise ConfigError([f"--until: got {until!r}, allowed is a month from 2013-03 to 2013-12"])
    starts = [datetime(2013, number, 1, tzinfo=UTC) for number in range(1, last.month + 1)]
    return [Window(start, (start + pd.DateOffset(months=1)).to_pydatetime()) for start in starts]
