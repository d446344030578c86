"""The stack of docker-compose.yaml, live: what is published, who gets in, and the story told while things die."""

import base64
import json
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from compose_stack import MODEL, REPOSITORY, ROW, Stack, open_ports, wait_for
from live.steady_load import steady_load

pytestmark = pytest.mark.timeout(3600)

SERVICES = (
    *("postgres", "redis", "api-server", "scheduler", "dag-processor", "triggerer"),
    *("worker", "worker-train", "worker-deploy", "mlflow", "gate"),
)
OBSERVERS = ("metrics", "prometheus", "alertmanager", "statsd-exporter")
# a dead worker is noticed after 60 s without a heartbeat, and its task is tried again at once
RECOVERY_SECONDS = 180


def session() -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    return made


def logged_in(stack: Stack, user: str) -> requests.Session:
    """A session with a token of this user of Airflow."""
    made = session()
    login = {"username": user, "password": stack.settings[f"AIRFLOW_{user.upper()}_PASSWORD"]}
    token = made.post(f"{stack.airflow}/auth/token", json=login, timeout=30).json()["access_token"]
    made.headers["Authorization"] = f"Bearer {token}"
    return made


def test_every_service_is_healthy_hardened_and_limited(stack: Stack) -> None:
    for service in (*SERVICES, *OBSERVERS):
        for container in stack.containers(service):
            host = container["HostConfig"]
            assert container["State"]["Health"]["Status"] == "healthy", service
            assert container["Config"]["User"] not in ("", "0", "root") or service == "gate", service
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert "no-new-privileges:true" in host["SecurityOpt"], service
            assert host["Memory"], service
            assert host["NanoCpus"], service
            assert host["PidsLimit"], service
            assert host["RestartPolicy"]["Name"] == "unless-stopped", service
    assert len(stack.containers("worker-train")) == 2


def test_images_are_official_or_ours(stack: Stack) -> None:
    names = {image.partition(":")[0] for image in stack.run("config", "--images").split()}
    ours, official = {"windvane-airflow", "windvane-deployer"}, {"postgres", "redis", "haproxy"}
    assert ours | official <= names
    assert all(name.startswith(("prom/", "grafana/")) for name in names - ours - official)


def test_nothing_runs_as_root(stack: Stack) -> None:
    for service in (*SERVICES, *OBSERVERS):
        name = stack.containers(service)[0]["Id"]
        seen = subprocess.run(["docker", "top", name, "-eo", "pid,uid"], capture_output=True, text=True, check=True).stdout.splitlines()
        users = {line.split()[1] for line in seen[1:]}
        assert users, service
        assert "0" not in users, service


def test_only_the_worker_of_deployments_holds_the_socket_and_it_has_no_shell(stack: Stack) -> None:
    holders = {
        service
        for service in SERVICES
        for container in stack.containers(service)
        if any(mount["Destination"].endswith("docker.sock") or "docker.sock" in mount["Source"] for mount in container["Mounts"])
    }
    assert holders == {"worker-deploy"}
    for shell in ("sh", "bash", "dash", "/bin/sh"):
        done = subprocess.run(
            stack.command("exec", "-T", "worker-deploy", shell, "-c", "true"),
            cwd=REPOSITORY,
            env=stack.environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0, shell


def test_workers_know_no_password_of_airflows_database_and_no_signing_key(stack: Stack) -> None:
    secret = {
        name: stack.settings[name] for name in ("AIRFLOW_DB_PASSWORD", "POSTGRES_PASSWORD", "AIRFLOW_JWT_SECRET", "AIRFLOW_FERNET_KEY")
    }
    for service in ("worker", "worker-train", "worker-deploy", "mlflow"):
        environment = " ".join(stack.containers(service)[0]["Config"]["Env"])
        assert [name for name, value in secret.items() if value in environment] == [], service


def test_each_role_gets_into_its_own_database_only(stack: Stack) -> None:
    def connects(role: str, database: str) -> bool:
        password = stack.settings[f"{role.upper()}_DB_PASSWORD"]
        code = f"import psycopg; psycopg.connect('postgresql://{role}:{password}@postgres/{database}').close()"
        done = subprocess.run(
            stack.command("exec", "-T", "worker", "python", "-c", code),
            cwd=REPOSITORY,
            env=stack.environment,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    roles = ("airflow", "mlflow", "windvane")
    assert {(role, database) for role in roles for database in (*roles, "postgres") if connects(role, database)} == {(r, r) for r in roles}


def test_roles_fit_the_models_page(stack: Stack) -> None:
    # who may look, who may act, who may see connections
    expected = {"viewer": (200, 403, 403), "user": (200, 200, 403), "op": (200, 200, 200), "admin": (200, 200, 200)}
    for user, answers in expected.items():
        asking = logged_in(stack, user)
        run = {"logical_date": None, "conf": {}}
        assert answers == (
            asking.get(f"{stack.airflow}/windvane/api/models", timeout=30).status_code,
            asking.post(f"{stack.airflow}/api/v2/dags/windvane__reconcile/dagRuns", json=run, timeout=30).status_code,
            asking.get(f"{stack.airflow}/api/v2/connections", timeout=30).status_code,
        ), user


def test_many_requests_at_once_are_all_answered(stack: Stack) -> None:
    token = logged_in(stack, "viewer").headers["Authorization"]

    def ask(path: str) -> int:
        asking = session()
        return asking.get(f"{stack.airflow}{path}", headers={"Authorization": token}, timeout=60).status_code

    paths = ["/api/v2/dags?limit=20", "/windvane/api/models"] * 200
    with ThreadPoolExecutor(80) as crowd:
        assert Counter(crowd.map(ask, paths)) == {200: len(paths)}


def test_the_story_is_told_while_a_worker_and_both_stores_die(stack: Stack) -> None:
    """The demo, with a trainer killed in its first training, PostgreSQL in May and Redis in June; requests come all the time."""
    story = stack.root / "demo.log"
    with story.open("w", encoding="utf-8") as output:
        demo = subprocess.Popen(
            stack.command("run", "--rm", "-T", "demo", "demo", "--until", "2013-07"),
            cwd=REPOSITORY,
            env=stack.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _tell(stack, story, demo)
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(60)
        print(story.read_text(encoding="utf-8"))


def _tell(stack: Stack, story: Path, demo: subprocess.Popen[bytes]) -> None:
    client = stack.client()

    def seen(text: str, *, seconds: float = 900) -> None:
        def said() -> bool:
            words = story.read_text(encoding="utf-8", errors="replace")
            assert text in words or demo.poll() is None, words[-3000:]
            return text in words

        wait_for(said, f"the demo says {text!r}", seconds=seconds, every=0.2)

    training = wait_for(lambda: _running(client, "train", "train"), "the first training runs", seconds=600, every=0.2)
    victim = next(c for c in stack.containers("worker-train") if c["Config"]["Hostname"] == training["hostname"])
    time.sleep(2)
    began = time.monotonic()
    stack.crash(victim["Id"])
    again = wait_for(
        lambda: next(
            (
                task
                for task in _tasks(client, "train")
                if task["task_id"] == "train" and (task["try_number"] or 0) > 1 and task["start_date"]
            ),
            None,
        ),
        "the training is tried again",
        seconds=RECOVERY_SECONDS,
    )
    print(f"\nthe training went on {time.monotonic() - began:.0f} s after its worker died, on {again['hostname']}")
    wait_for(
        lambda: stack.containers("worker-train")[0]["State"]["Running"] and stack.containers("worker-train")[1]["State"]["Running"],
        "two trainers",
        seconds=60,
    )

    seen("March: flights are scored")
    headers, body = stack.new_key(), {"dataframe_records": [ROW]}
    with steady_load(stack.endpoint, body, per_second=20, headers=headers) as load:
        seen("May: outcomes arrive")
        wait_for(lambda: _running(client, "ingest", None), "May is ingested", seconds=60, every=0.1)
        _crash_store(stack, "postgres")
        seen("June: outcomes arrive")
        wait_for(lambda: _running(client, "ingest", None), "June is ingested", seconds=60, every=0.1)
        _crash_store(stack, "redis")
        status = demo.wait(1800)
    assert load.failures == []
    assert load.answered > 1000
    print(f"{load.answered} requests beside those of the demo were answered, none failed")
    assert status == 0, story.read_text(encoding="utf-8")[-4000:]


def _crash_store(stack: Stack, service: str) -> None:
    before = stack.containers(service)[0]["RestartCount"]
    began = time.monotonic()
    stack.crash(stack.containers(service)[0]["Id"])

    def back() -> bool:
        found = stack.containers(service)[0]
        return found["RestartCount"] > before and found["State"]["Health"]["Status"] == "healthy"

    wait_for(back, f"{service} is restarted", seconds=120, every=0.5)
    print(f"{service} was healthy again after {time.monotonic() - began:.0f} s")


def test_the_ledger_is_one_line_and_each_training_made_one_version(stack: Stack) -> None:
    stack.windvane("ledger", MODEL, "--verify")
    rows = json.loads(stack.windvane("ledger", MODEL, "--json"))
    epochs = [row["epoch"] for row in (rows if isinstance(rows, list) else rows["releases"])]
    assert sorted(epochs) == list(range(1, len(epochs) + 1))
    client = stack.client()
    made = [
        client.result(run["dag_id"], run["dag_run_id"], "register")["version"]
        for run in _runs(client, "train")
        if run["state"] == "success"
    ]
    assert made
    assert Counter(made).most_common(1)[0][1] == 1
    asking = session()
    asking.auth = ("admin", stack.settings["MLFLOW_ADMIN_PASSWORD"])
    found = asking.get(f"{stack.mlflow}/api/2.0/mlflow/model-versions/search", params={"filter": f"name='{MODEL}'"}, timeout=30).json()
    assert sorted(int(version["version"]) for version in found["model_versions"]) == sorted(made)


def test_logs_of_a_replaced_worker_can_be_read(stack: Stack) -> None:
    client = stack.client()
    run = _runs(client, "train")[-1]
    task = next(task for task in client.tasks(run["dag_id"], run["dag_run_id"]) if task["task_id"] == "train")
    assert task["try_number"] > 1
    stack.run("up", "--detach", "--wait", "--no-build", "--force-recreate", "--no-deps", "--scale", "worker-train=2", "worker-train")
    assert task["hostname"] not in {container["Config"]["Hostname"] for container in stack.containers("worker-train")}
    path = f"/dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'], safe='')}/taskInstances/train/logs"
    for attempt in (1, task["try_number"]):
        log = json.dumps(client._request("GET", f"{path}/{attempt}", params={"full_content": True}))
        assert "windvane" in log, f"attempt {attempt}: {log[:1000]}"


def test_only_documented_ports_are_published_and_only_on_this_machine(stack: Stack) -> None:
    networks = subprocess.run(
        ["docker", "network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={stack.name}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    attached = {name for network in json.loads(_inspect(*networks)) for name in network["Containers"]}
    bound = {
        (binding["HostIp"], int(binding["HostPort"]))
        for container in json.loads(_inspect(*attached))
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or []
    }
    assert bound == {("127.0.0.1", port) for port in stack.ports.values()}
    # every port of every address of the machine, against what was open before the stack came up
    for address, before in stack.open_before.items():
        wanted = set(stack.ports.values()) if address == "127.0.0.1" else set()
        assert {port for port in open_ports(address) - before if _stays_open(address, port)} == wanted, address


def test_without_credentials_there_is_only_health(stack: Stack) -> None:
    fetch = "import json, urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/openapi.json').read().decode())"
    described = json.loads(stack.run("exec", "-T", "api-server", "python", "-c", fetch))
    paths = [(method.upper(), path) for path, methods in described["paths"].items() for method in methods if method != "parameters"]
    assert len(paths) > 100
    paths += [
        ("GET", path) for path in ("/", "/dags", "/plugin/models", "/static/index.html", "/docs", "/redoc", "/openapi.json", "/auth/docs")
    ]
    paths += [
        ("GET", path)
        for path in ("/auth/users/list/", "/auth/fab/v1/users", "/execution/health", "/windvane/api/models", "/windvane/page/models.js")
    ]
    # what docs/compose.md says is open: health, and what signs in or out
    signing = {("GET", path) for path in ("/api/v2/auth/login", "/auth/login/", "/auth/logout/", "/favicon.ico")}
    signing |= {("POST", path) for path in ("/auth/login/", "/auth/token", "/auth/token/cli")}
    found = _open(stack.airflow, [*paths, *signing])
    assert found.keys() <= {("GET", "/api/v2/monitor/health"), *signing}
    assert (found[("GET", "/api/v2/monitor/health")], found[("GET", "/auth/login/")]) == (200, 200)
    assert not {answer for (_, path), answer in found.items() if "token" in path} & {200, 201}, "nobody got a token"
    assert _open(stack.mlflow, _mlflow_paths()) == {("GET", "/health"): 200}
    of_model = f"/v2/models/{MODEL}"
    posts = [("POST", "/invocations"), ("POST", f"{of_model}/infer")]
    gets = ("/", of_model, f"{of_model}/ready", "/v2", "/version", "/model", "/metrics", "/openapi.json")
    assert _open(stack.endpoint, [*posts, *(("GET", path) for path in gets)]) == {}
    assert session().get(f"{stack.endpoint}/health", timeout=10).status_code == 200


def test_bad_credentials_open_nothing_either(stack: Stack) -> None:
    junk = base64.b64encode(b"admin:admin").decode()
    for headers in ({"Authorization": f"Basic {junk}"}, {"Authorization": "Bearer junk"}, {"Cookie": "_token=junk"}):
        for path in ("/api/v2/dags", "/windvane/api/models", "/auth/fab/v1/users"):
            assert session().get(stack.airflow + path, headers=headers, timeout=30).status_code in (401, 403), (headers, path)
    assert session().get(f"{stack.mlflow}/api/2.0/mlflow/experiments/search", auth=("admin", "admin"), timeout=30).status_code == 401
    wrong = session().post(f"{stack.endpoint}/invocations", json={"dataframe_records": [ROW]}, headers={"X-API-Key": "wv_junk"}, timeout=30)
    assert wrong.status_code == 401


def test_it_comes_up_again_with_what_it_knew(stack: Stack) -> None:
    """An upgrade from an older Airflow: everything is stopped and made anew; volumes and state stay, and the schema is migrated."""
    before, runs = stack.windvane("ledger", MODEL, "--json"), _names(stack)
    stack.run("stop", "worker-deploy")
    stack.run("run", "--rm", "--no-deps", "-T", "--entrypoint", "windvane", "worker-deploy", "down")
    stack.run("down")
    migrate = ("run", "--rm", "-T", "--entrypoint", "airflow", "airflow-init", "db")
    stack.run(*migrate, "downgrade", "--to-version", "3.2.0", "--yes")
    assert "unapplied migrations" in stack.failure(*migrate, "check-migrations", "--migration-wait-timeout", "0")
    stack.run("up", "--detach", "--wait", "--no-build", "--scale", "worker-train=2", seconds=900)
    assert stack.windvane("ledger", MODEL, "--json") == before
    key = stack.windvane("key", "list", MODEL, "--json")
    assert json.loads(key)
    wait_for(lambda: _ready(f"{stack.endpoint}/ready"), "the model serves again", seconds=120)
    assert _names(stack) >= runs > set()


def _names(stack: Stack) -> set[str]:
    return {run["dag_run_id"] for run in stack.client().runs()}


def _open(url: str, paths: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """What answers something else than 401 or 403 to who has no credentials."""
    asking, found = session(), {}
    for method, path in paths:
        filled = "".join("x" if "{" in part else part for part in path.replace("}", "}\0").replace("{", "\0{").split("\0"))
        status = asking.request(method, url + filled, timeout=30, allow_redirects=False).status_code
        if status not in (401, 403):
            found[(method, path)] = status
    return found


def _mlflow_paths() -> list[tuple[str, str]]:
    from mlflow.server import app

    rules = [(method, rule.rule) for rule in app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}]
    assert len(rules) > 100
    return [(method, rule.replace("<", "{").replace(">", "}")) for method, rule in rules]


def _stays_open(address: str, port: int) -> bool:
    """Whether somebody listens there for good; other programs of the machine open ports for a moment."""
    time.sleep(1)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def _inspect(*names: str) -> str:
    return subprocess.run(["docker", "inspect", *names], capture_output=True, text=True, check=True).stdout


def _ready(url: str) -> bool:
    try:
        return session().get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _runs(client: Any, kind: str) -> list[dict[str, Any]]:
    """The runs of a DAG of the model, newest first."""
    return [run for run in client.runs() if run["dag_id"] == f"{MODEL}__{kind}"]


def _tasks(client: Any, kind: str) -> list[dict[str, Any]]:
    return [task for run in _runs(client, kind) for task in client.tasks(run["dag_id"], run["dag_run_id"])]


def _running(client: Any, kind: str, task_id: str | None) -> dict[str, Any] | None:
    tasks = (task for task in _tasks(client, kind) if task["state"] == "running" and task_id in (None, task["task_id"]))
    return next(tasks, None)
