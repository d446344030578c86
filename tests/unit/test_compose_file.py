"""The promises of docker-compose.yaml that can be read off it."""

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
    assert "mem_limit" in service
    assert "cpus" in service
    assert "privileged" not in service
    assert service.get("network_mode") is None
    assert name in ONCE or (service["restart"] == "unless-stopped" and "healthcheck" in service)


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
