"""The promises of docker-compose.yaml that can be read off it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())["services"]
ONCE = {name for name, service in SERVICES.items() if service.get("restart") == "no"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_bounded_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert "privileged" not in service
    assert service.get("network_mode") is None
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert name in ONCE or "healthcheck" in service


def test_only_what_prepares_or_tells_ends_by_itself() -> None:
    assert {"airflow-init", "postgres-init", "demo"} == ONCE


def test_who_uses_the_object_store_has_its_credentials() -> None:
    page = (REPOSITORY / "docs" / "storage.md").read_text()
    documented = set(re.findall(r"`((?:AWS|GOOGLE|AZURE)_[A-Z_]+)\b", page))
    assert {"AWS_SESSION_TOKEN", "GOOGLE_SERVICE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_KEY"} <= documented
    users = {name for name, service in SERVICES.items() if "WINDVANE_LAKE" in (service.get("environment") or {})}
    assert users >= {"api-server", "worker", "worker-train", "worker-deploy", "metrics", "demo"}
    for name in (*users, "mlflow"):
        given = SERVICES[name]["environment"]
        assert {variable for variable in documented if variable not in given} == set(), name
        # as .env has them, and not at all where it has none
        assert {variable for variable in documented if given[variable] is not None} == set(), name


def test_every_part_of_airflow_knows_where_logs_go() -> None:
    page = (REPOSITORY / "docs" / "compose.md").read_text()
    example = re.findall(r"^ +(AIRFLOW_\w+)=", page, flags=re.MULTILINE)
    assert sorted(example) == [
        "AIRFLOW_CONN_WINDVANE_LOGS",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER",
        "AIRFLOW__LOGGING__REMOTE_LOGGING",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID",
    ]
    parts = {name for name, service in SERVICES.items() if "AIRFLOW__CORE__EXECUTOR" in (service.get("environment") or {})}
    assert parts >= {"api-server", "scheduler", "dag-processor", "triggerer", "worker", "worker-train", "worker-deploy"}
    for name in parts:
        assert {SERVICES[name]["environment"].get(variable, "not forwarded") for variable in example} == {None}, name


def test_all_that_profiles_start_is_stopped_again() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    recipe = (REPOSITORY / "Makefile").read_text().partition("\ncompose-down:")[2].partition("\n\n")[0]
    assert profiles
    assert set(re.findall(r"--profile (\w+)", recipe)) == profiles
    page = (REPOSITORY / "docs" / "compose.md").read_text()
    downs = [line for line in page.splitlines() if "docker compose" in line and " down --volumes" in line]
    assert downs
    assert all(set(re.findall(r"--profile (\w+)", line)) == profiles for line in downs)


def test_the_page_names_every_path_that_is_open() -> None:
    gate = (REPOSITORY / "include" / "docker" / "gate" / "haproxy.cfg").read_text()
    paths = {path for line in re.findall(r"acl open path(?:_beg)? (.*)", gate) for path in line.split()}
    assert "/auth/token" in paths
    page = (REPOSITORY / "docs" / "compose.md").read_text()
    assert {path for path in paths if f"`{path}`" not in page and f"`{path.rstrip('/')}`" not in page} == set()


def test_only_this_machine_is_published_to() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_one_service_holds_the_docker_socket() -> None:
    holders = [name for name, service in SERVICES.items() if any("docker.sock" in str(volume) for volume in service.get("volumes", []))]
    assert holders == ["worker-deploy"]


def test_every_queue_of_the_dags_has_a_worker() -> None:
    from windvane_airflow.build_dags import DEPLOY_QUEUE, TRAIN_QUEUE

    commands = " ".join(str(part) for service in SERVICES.values() for part in service.get("command", []))
    assert f"--queues {DEPLOY_QUEUE}" in commands
    assert [service["command"][3] for service in SERVICES.values() if "--queues" in service.get("command", [])] == ["default", TRAIN_QUEUE]


def test_no_secret_has_a_default() -> None:
    text = (REPOSITORY / "docker-compose.yaml").read_text()
    for line in text.splitlines():
        for word in ("PASSWORD:-", "SECRET:-", "SECRET_KEY:-", "FERNET_KEY:-"):
            assert word not in line, line


def test_the_images_airflow_is_that_of_the_lock() -> None:
    lock = (REPOSITORY / "include" / "docker" / "airflow" / "requirements.txt").read_text().splitlines()
    pinned = {
        line.split(" ")[0] for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if "==" in line and line[0] not in " #"
    }
    ours = {line.split(" ")[0] for line in lock if "==" in line and line[0] not in " #"}
    version = next(pin for pin in pinned if pin.startswith("apache-airflow==")).partition("==")[2]
    assert f"FROM apache/airflow:{version} " in (REPOSITORY / "include" / "docker" / "airflow" / "Dockerfile").read_text()
    assert pinned <= ours
    # MLflow's server imports it only when artifacts go to s3://
    assert any(pin.startswith("boto3==") for pin in ours)


def test_the_page_says_what_each_tag_was_tried_with() -> None:
    table = (REPOSITORY / "docs" / "compose.md").read_text().partition("## What was tried")[2]
    foreign = {str(service["image"]) for service in SERVICES.values() if not str(service["image"]).startswith("${")}
    assert foreign
    assert set(re.findall(r"^\| [^|]+ \| `([^`]+)` \|", table, flags=re.MULTILINE)) == foreign
