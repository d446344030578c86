"""Places where a test can end, break or stop a deployment, to see that whoever comes after finishes the work.

`WINDVANE_FAILPOINT=<name>:<what>` or `#<n>:<what>` (the n-th that is reached, from 1), where what is `kill`, `raise`, `hang` or
`enospc`. Without the variable nothing happens.
"""

import errno
import itertools
import os
import signal
import time

_reached = itertools.count(1)


def failpoint(name: str) -> None:
    """Fail here if the environment says so.

    Raises:
        RuntimeError: For `raise`.
        OSError: For `enospc`.
    """
    wanted, _, what = os.environ.get("WINDVANE_FAILPOINT", "").partition(":")
    if not wanted or wanted not in (name, f"#{next(_reached)}"):
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(3600)
    if what == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    raise RuntimeError(f"failpoint {name}")
