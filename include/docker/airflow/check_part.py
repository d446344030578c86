"""Tells whether one part of the stack works: the health check of its container. It runs every few seconds, so it imports little."""

import json
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

_PATIENCE_SECONDS = 5.0
_SILENT_SECONDS = 60.0


def _fetch(url: str) -> bytes:
    with build_opener(ProxyHandler({})).open(url, timeout=_PATIENCE_SECONDS) as response:
        return bytes(response.read())


def _airflow(part: str, *, url: str = "http://api-server:8080") -> bool:
    return bool(json.loads(_fetch(f"{url}/api/v2/monitor/health"))[part]["status"] == "healthy")


def _api_server() -> bool:
    return _airflow("metadatabase", url="http://127.0.0.1:8080")


def _scheduler() -> bool:
    _fetch("http://127.0.0.1:8974/health")
    return True


def _worker() -> bool:
    from celery import Celery

    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    return bool(app.control.ping(destination=[f"celery@{socket.gethostname()}"], timeout=_PATIENCE_SECONDS))


def _deployer() -> bool:
    report = json.loads((Path(os.environ["WINDVANE_VAR"]) / "reconciler.json").read_text(encoding="utf-8"))
    looked_at = datetime.fromisoformat(report["seen"]).timestamp()
    return time.time() - looked_at < _SILENT_SECONDS and _worker()


def _mlflow() -> bool:
    _fetch("http://127.0.0.1:5000/health")
    return True


def _metrics() -> bool:
    return b"windvane_up 1.0" in _fetch("http://127.0.0.1:9464/metrics")


_CHECKS = {
    "api-server": _api_server,
    "scheduler": _scheduler,
    "dag-processor": lambda: _airflow("dag_processor"),
    "triggerer": lambda: _airflow("triggerer"),
    "worker": _worker,
    "deployer": _deployer,
    "mlflow": _mlflow,
    "metrics": _metrics,
}

if __name__ == "__main__":
    sys.exit(0 if _CHECKS[sys.argv[1]]() else 1)
