"""The commands of the README's section on the API do what it says, word for word but for names and places."""

import os
import re
import subprocess
import sys

import pytest
from live_platform import Live

from windvane.settings import REPOSITORY

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


def blocks(live: Live, language: str) -> list[str]:
    """The code blocks of the section, with the live platform's names and places."""
    section = (REPOSITORY / "README.md").read_text().split("## Trigger by API")[1].split("\n## ")[0]
    places = {
        "http://127.0.0.1:8080": live.platform.airflow_url,
        "http://127.0.0.1:8100": live.endpoint,
        "var/airflow_passwords.json": str(live.settings.var / "airflow_passwords.json"),
        "flight_delay__": "flights__",
    }
    for written, real in places.items():
        assert written in section
        section = section.replace(written, real)
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.S)


def test_the_curl_commands_trigger_a_training_and_score_a_flight(live: Live) -> None:
    before = live.runs_of("flights__train")
    script = "set -euo pipefail\n" + "\n".join(blocks(live, "sh"))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert '"predictions"' in done.stdout
    assert '"probabilities"' in done.stdout
    new = live.runs_of("flights__train") - before
    assert len(new) == 1
    live.wait_for("flights__train", new.pop())


def test_the_python_program_rolls_back(live: Live) -> None:
    newest = max(release.version for release in live.ledger.history("flights") if release.action == "promote")
    live.run("flights__deploy", {"version": newest})
    before = live.runs_of("flights__deploy")
    (program,) = blocks(live, "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    assert run_id in live.runs_of("flights__deploy") - before
    live.wait_for("flights__deploy", run_id)
