"""The web server's garbage is collected, whichever Python runs it, also in a process that it forked."""

import os
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "config"
LOOK = """
import gc, os, sys, time, weakref
sys.argv = ["airflow", "api-server"]
import airflow_local_settings

class Node:
    pass

def left_behind():
    one = Node()
    one.itself = one
    return weakref.ref(one)

def is_collected():
    seen = left_behind()
    kept, give_up = [], time.monotonic() + 20
    while seen() is not None and time.monotonic() < give_up:
        kept += [[] for _ in range(1000)]
        time.sleep(0.05)
    return seen() is None

assert gc.isenabled() == (sys.version_info >= (3, 12))
assert is_collected(), "garbage stays"
child = os.fork()
if child == 0:
    os._exit(0 if is_collected() else 1)
assert os.waitpid(child, 0)[1] == 0, "garbage stays in a child"
"""


def test_garbage_is_collected() -> None:
    environ = os.environ | {"PYTHONPATH": str(CONFIG)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
