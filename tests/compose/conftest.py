"""One stack for all tests of this directory; it is removed at the end, whatever happened."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import Stack, engine_answers

# what Compose would download, and what stands in for it on a machine without a registry
_STAND_INS = {
    "prom/prometheus:v3.5.0": "FROM prom/prometheus:latest",
    "prom/alertmanager:v0.28.1": "FROM prom/alertmanager:latest\nUSER root\nRUN install -d -o 65534 /alertmanager\nUSER 65534",
    "prom/statsd-exporter:v0.28.0": (Path(__file__).parent / "statsd_stand_in" / "Dockerfile").read_text(encoding="utf-8"),
}


_MARK = "windvane.stand-in"


def prepare_images() -> None:
    """Find or make them; one that was made is made again, which takes a moment where nothing changed."""
    for image, recipe in _STAND_INS.items():
        labels = _docker("image", "inspect", "--format", "{{json .Config.Labels}}", image)
        if (labels is None and _docker("pull", "--quiet", image) is None) or _MARK in (labels or ""):
            context = str(Path(__file__).parent / "statsd_stand_in")
            made = _docker("build", "--quiet", "--label", f"{_MARK}=yes", "--tag", image, "--file", "-", context, given=recipe)
            assert made is not None, f"{image} can neither be downloaded nor be stood in for"


def _docker(*arguments: str, given: str = "") -> str | None:
    """What a command printed, None if it failed."""
    environ = os.environ | {"DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *arguments], input=given, text=True, capture_output=True, check=False, env=environ)
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not engine_answers():
        pytest.fail("these tests need a Docker engine and Docker Compose")
    root = tmp_path_factory.mktemp("compose")
    # the user of the containers comes past it to what is mounted
    for folder in (root, root.parent, root.parent.parent):
        folder.chmod(0o755)
    made = Stack(name=f"windvane-test-{os.getpid()}", root=root)
    made.prepare()
    prepare_images()
    made.run("build", "--quiet", "airflow-init", "worker-deploy", seconds=1800)
    began = time.monotonic()
    try:
        made.run("up", "--detach", "--wait", "--no-build", "--scale", "worker-train=2", seconds=900)
        print(f"\nthe stack was healthy after {time.monotonic() - began:.0f} s")
        yield made
    finally:
        made.remove()
