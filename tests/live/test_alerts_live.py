"""Alerts fire on what the parts say: a real Prometheus asks `windvane metrics` over a ledger and a catalog, and Airflow for its pools.

The rules are the repository's; a copy shortens `for`, so that nobody waits for minutes. What is late is so in data time: by its windows.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from live_platform import free_port, until
from seed_models import seeded_environment
from seed_team import write_team
from tell_stories import Story

from windvane.catalog import Catalog
from windvane.decision_evidence import DecisionName, Evidence, Performance
from windvane.deployment import revert_expired
from windvane.ledger import Action, Ledger
from windvane.monitor_model import MonitorResult
from windvane.settings import REPOSITORY, Settings, load_settings
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
DOCKER = REPOSITORY / "include" / "docker"
MODELS = ("well", "harmed", "tried", "late", "young", "new")
WEEK = timedelta(weeks=1)
START = datetime(2026, 1, 4, tzinfo=UTC)
DISK_MIB = 8
# a mount that only the command sees, and that any user may make
SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'mount -t tmpfs -o size={DISK_MIB}m tmpfs "$0" && exec "$@"')

Labels = frozenset[tuple[str, str]]


def alert(name: str, severity: str = "warning", **labels: str) -> Labels:
    return frozenset({"alertname": name, "severity": severity, **labels}.items())


def told(labels: Mapping[str, str]) -> Labels:
    """What an alert is about, without what Prometheus adds: where it asked, and the alert's state."""
    return frozenset((name, value) for name, value in labels.items() if name not in ("alertstate", "instance", "job"))


@dataclass
class Watch:
    """Prometheus over the parts, and what is expected of it.

    Attributes:
        disk: A small disk that the exporter alone has, as a path that this process reaches; None where no user may mount one.
        airflow: Puts a training into the state of each line on its input.
        firing: Alerts that should fire now.
        fired: Alerts that should have fired since the beginning.
    """

    url: str
    settings: Settings
    prometheus: subprocess.Popen[bytes]
    rules: Path
    airflow: subprocess.Popen[bytes]
    disk: Path | None
    firing: set[Labels] = field(default_factory=set)
    fired: set[Labels] = field(default_factory=set)

    def begins(self, *alerts: Labels) -> None:
        """Wait until these fire as well."""
        expected = self.firing | {*alerts}
        until(lambda: self.now() == expected, seconds=60, what=f"{sorted(map(sorted, expected))} fire")
        self.firing, self.fired = expected, self.fired | expected
        self.is_true()

    def ends(self, *alerts: Labels) -> None:
        """Wait until these fire no more."""
        self.firing -= {*alerts}
        until(lambda: self.now() == self.firing, seconds=60, what=f"{sorted(map(sorted, alerts))} end")
        self.is_true()

    def stays(self) -> None:
        """Wait for as long as an alert needs, from the state to the scrape to the rule and its patience; none begins."""
        last = self.evaluations() + 4
        until(lambda: self.evaluations() >= last, seconds=60, what="four evaluations")
        self.is_true()

    def is_true(self) -> None:
        """Nothing has fired so far that should not."""
        assert {told(row["metric"]) for row in self.query('count_over_time(ALERTS{alertstate="firing"}[1h])')} == self.fired

    def now(self) -> set[Labels]:
        return {told(found["labels"]) for found in self.ask("alerts")["alerts"] if found["state"] == "firing"}

    def evaluations(self) -> float:
        """How often all rules were evaluated."""
        found = self.query("min(prometheus_rule_group_iterations_total)")
        return float(found[0]["value"][1]) if found else 0.0

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.ask("query", query=expression)["result"])

    def ask(self, path: str, **params: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=params, timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def puts_training(self, state: str) -> None:
        assert self.airflow.stdin
        self.airflow.stdin.write(f"{state}\n".encode())
        self.airflow.stdin.flush()


def copy_rules(to: Path, *, disk_low: float) -> None:
    """The repository's rules, whose patience is cut to a second, but not with silence: a busy machine may answer late.

    Args:
        disk_low: Below which free share DiskLow fires.
    """
    to.mkdir(exist_ok=True)
    for path in sorted((DOCKER / "prometheus" / "rules").glob("*.yml")):
        content = yaml.safe_load(path.read_text())
        for rule in (rule for group in content["groups"] for rule in group["rules"]):
            if "for" in rule and "absent(" not in rule["expr"]:
                rule["for"] = "1s"
            if rule.get("alert") == "DiskLow":
                assert rule["expr"].endswith(" < 0.1")
                rule["expr"] = rule["expr"].replace(" < 0.1", f" < {disk_low}")
        (to / path.name).write_text(yaml.safe_dump(content))


def prometheus_config(root: Path, ports: Mapping[str, int]) -> Path:
    """The repository's, every second, with the parts where they are here; neither models nor Alertmanager run."""
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(root / "rules" / "*.yml")]
    del config["alerting"]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in ports]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    path = root / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def running(log: Path, *command: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def has_small_disk(directory: Path) -> bool:
    try:
        return subprocess.run([*SMALL_DISK, str(directory), "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def answers(process: subprocess.Popen[bytes], log: Path, url: str, *words: str) -> None:
    """Wait until a part tells of all this."""

    def complete() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            text = requests.get(url, timeout=10).text
        except (requests.ConnectionError, requests.Timeout):
            return False
        return all(word in text for word in words)

    until(complete, seconds=120, what=f"{url}: {words}")


def release(settings: Settings, model: str, action: Action, version: int, traffic: dict[int, int], until: datetime | None = None) -> None:
    with closing(Ledger(settings.database)) as ledger:
        last = ledger.last(model)
        ledger.append(
            model,
            expected_epoch=last.epoch if last else 0,
            action=action,
            version=version,
            digest=f"{version:064d}",
            traffic=traffic,
            actor=f"{model}__deploy/manual__{version}",
            reason="better by 0.012",
            until=until,
        )


def decide(
    settings: Settings, model: str, week: int, *, decision: DecisionName = "ok", realised: bool = True, champion: int | None = 1
) -> None:
    """Record what the monitor says of a week of data time, with its outcomes known or not."""
    window = Window(START + week * WEEK, START + (week + 1) * WEEK)
    performance = Performance("roc_auc", 0.75, 0.72, 0.78, 900, 900) if realised else None
    evidence = Evidence(window, 900, champion=champion, realised=performance, compared=5)
    with closing(Catalog(settings.database)) as catalog:
        catalog.record_window(model, MonitorResult(decision, "because", "", evidence, None, window))


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """All parts, and models that are well; Prometheus has looked a few times, and no alert has fired."""
    tool = shutil.which("prometheus")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not installed; it comes with Debian's package prometheus")
        pytest.skip("no prometheus; it comes with Debian's package prometheus")
    root = tmp_path_factory.mktemp("alerts")
    settings = load_settings({"WINDVANE_PROJECT": str(root / "team"), "WINDVANE_VAR": str(root / "var")})
    settings.var.mkdir()
    write_team(settings.project, [Story(model, "serving", "team", (), "Who?", "roc_auc", False) for model in MODELS])
    for model in MODELS[:-1]:
        release(settings, model, "promote", 1, {1: 100})
        decide(settings, model, 0, realised=model != "young")
    # its data is watched for a year already, but nothing serves
    for week in (0, 52):
        decide(settings, "new", week, decision="wait", realised=False, champion=None)
    disk, small = root / "disk", has_small_disk(settings.var)
    disk.mkdir()
    copy_rules(root / "rules", disk_low=0.1 if small else 0)
    ports = {job: free_port() for job in ("prometheus", "windvane", "airflow")}
    urls, udp = {job: f"http://127.0.0.1:{port}" for job, port in ports.items()}, free_port()
    with ExitStack() as stack:
        serve = [str(Path(sys.executable).with_name("windvane")), "metrics", "--port", str(ports["windvane"])]
        environ = {**os.environ, **settings.as_environment(), "WINDVANE_VAR": str(disk)}
        before = [*SMALL_DISK, str(disk)] if small else []
        exporter = stack.enter_context(running(root / "exporter.log", *before, *serve, environ=environ))
        write_team(root / "airflow" / "team", [Story("well", "serving", "team", (), "Who?", "roc_auc", False)])
        send = [sys.executable, str(Path(__file__).with_name("send_pools.py")), "127.0.0.1", str(udp)]
        airflow = stack.enter_context(running(root / "airflow.log", *send, environ=seeded_environment(root / "airflow", free_port())))
        statsd = stack.enter_context(
            running(
                root / "statsd.log",
                *(sys.executable, str(REPOSITORY / "tests" / "compose" / "statsd_stand_in" / "exporter.py")),
                f"--statsd.mapping-config={DOCKER / 'statsd' / 'mapping.yml'}",
                f"--statsd.listen-udp=127.0.0.1:{udp}",
                f"--web.listen-address=127.0.0.1:{ports['airflow']}",
            )
        )
        answers(
            exporter, root / "exporter.log", f"{urls['windvane']}/metrics", 'windvane_releases_total{action="revert",model="tried"} 0.0'
        )
        answers(statsd, root / "statsd.log", f"{urls['airflow']}/metrics", 'airflow_pool_queued_slots{pool="train"} 0.0')
        prometheus = stack.enter_context(
            running(
                root / "prometheus.log",
                *(tool, f"--config.file={prometheus_config(root, ports)}", f"--storage.tsdb.path={root / 'tsdb'}"),
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
            )
        )
        answers(prometheus, root / "prometheus.log", f"{urls['prometheus']}/-/ready", "Ready")
        small_disk = Path(f"/proc/{exporter.pid}/root{disk}") if small else None
        made = Watch(urls["prometheus"], settings, prometheus, root / "rules", airflow, small_disk)
        until(lambda: len(made.query("up == 1")) == len(ports), seconds=60, what="all parts are asked")
        made.stays()
        yield made


def test_a_model_whose_decision_asks_for_something_is_degraded(watch: Watch) -> None:
    decide(watch.settings, "harmed", 1, decision="retrain")
    degraded = alert("ModelDegraded", model="harmed", state="degraded")
    watch.begins(degraded)
    release(watch.settings, "harmed", "promote", 2, {2: 100})
    watch.ends(degraded)


def test_a_rollout_that_is_taken_back_is_told(watch: Watch) -> None:
    release(watch.settings, "tried", "shift", 2, {1: 90, 2: 10}, until=datetime.now(UTC) + timedelta(seconds=3))
    watch.stays()
    with closing(Ledger(watch.settings.database)) as ledger:
        until(lambda: revert_expired(ledger, "tried"), seconds=10, what="the reconciler takes version 2 back")
    watch.begins(alert("RolloutReverted", model="tried", action="revert"), alert("ModelDegraded", model="tried", state="degraded"))


def test_outcomes_that_stay_away_for_longer_than_their_delay_and_a_week_are_late(watch: Watch) -> None:
    # the newest week of which outcomes are known is the first one; of the young model they never were
    decide(watch.settings, "late", 2, realised=False)
    decide(watch.settings, "young", 1, realised=False)
    watch.stays()
    decide(watch.settings, "late", 3, realised=False)
    decide(watch.settings, "young", 2, realised=False)
    late, young = alert("OutcomesLate", model="late"), alert("OutcomesLate", model="young")
    watch.begins(late, young)
    decide(watch.settings, "late", 2)
    watch.ends(late)


def test_a_queue_from_which_nobody_takes_is_stuck(watch: Watch) -> None:
    watch.puts_training("running")
    watch.stays()
    watch.puts_training("queued")
    stuck = alert("QueueStuck", "critical", pool="train")
    watch.begins(stuck)
    watch.puts_training("running")
    watch.ends(stuck)


def test_a_disk_of_which_less_than_a_tenth_is_free_is_told(watch: Watch) -> None:
    low = alert("DiskLow")
    if watch.disk is None:
        # nothing fills the disk that all share: the threshold moves instead
        copy_rules(watch.rules, disk_low=1)
        watch.prometheus.send_signal(signal.SIGHUP)
        watch.begins(low)
        return
    half, rest = watch.disk / "half", watch.disk / "rest"
    half.write_bytes(bytes(DISK_MIB * 2**19))
    watch.stays()
    rest.write_bytes(bytes(DISK_MIB * 2**19 - 2**19))
    watch.begins(low)
    rest.unlink()
    watch.ends(low)
    watch.stays()
