"""Two commands in one container: they live and die together."""

import signal
import subprocess
import sys
import time
from pathlib import Path

FOREVER = f"{sys.executable} -c 'import time; time.sleep(60)'"


def run(*commands: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "windvane.run_together", *commands], stderr=subprocess.PIPE, text=True)


def status(made: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = made.communicate(timeout=30)
    return made.returncode, errors


def test_when_one_ends_the_other_is_ended_and_the_status_says_so(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    other = (
        f"{sys.executable} -c 'import signal, sys, time, pathlib; "
        f'signal.signal(15, lambda *_: (pathlib.Path("{ended}").touch(), sys.exit())); time.sleep(60)\''
    )
    made = run(other, f"{sys.executable} -c 'import sys, time; time.sleep(1.5); sys.exit(7)'")
    number, errors = status(made)
    assert number == 7
    assert "ended with status 7" in errors
    assert ended.exists()


def test_a_command_that_ends_well_is_a_failure_too() -> None:
    assert status(run(FOREVER, f"{sys.executable} -c ''"))[0] == 1


def test_a_command_that_is_killed_is_a_failure() -> None:
    assert status(run(FOREVER, f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'"))[0] == 1


def test_a_signal_ends_both_in_good_order() -> None:
    made = run(FOREVER, FOREVER)
    time.sleep(1)
    made.send_signal(signal.SIGTERM)
    assert status(made)[0] == 0
