"""`python -m windvane.scoring`: serves one model, either as the release ledger says or one version for good."""

import os

# OpenMP reads this once, when the first numeric library is imported: one thread per request, requests side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Arrow's own pool keeps what a large segment took
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import argparse
import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

from windvane.errors import WindvaneError
from windvane.settings import Settings, load_settings

log = logging.getLogger("windvane.scoring")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    options = _options(arguments)
    # one heap for all threads: each thread's own would keep what its largest request took (M_ARENA_MAX of glibc; others have none)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-8, 1)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    settings = load_settings()
    try:
        listener = _listen(options.host, options.port)
    except OSError as exc:
        log.error(
            "port %d on %s cannot be used: %s; stop what listens there, or change deploy.port in dags/configs/%s.yaml",
            *(options.port, options.host, exc.strerror, options.model or "<model>"),
        )
        return 1
    try:
        _serve(options, settings, listener)
    except WindvaneError as exc:
        log.error("%s", exc)
        return 1
    return 0


def _serve(options: argparse.Namespace, settings: Settings, listener: socket.socket) -> None:
    # imported here so that a wrong option or a taken port is told at once
    import uvicorn

    from windvane.bundle import open_bundle
    from windvane.manage_keys import keys_path
    from windvane.scoring.app import Service
    from windvane.scoring.bound_connections import server_config
    from windvane.scoring.check_key import KeyCheck
    from windvane.scoring.count_requests import Counts
    from windvane.scoring.log_requests import RequestLog
    from windvane.scoring.serve_version import ServingSlot, Wanted

    slot = ServingSlot()
    model = options.model or str(open_bundle(settings.bundles, options.bundle).manifest["model"])
    counts = Counts(model)
    requests = RequestLog(settings.requests / model, on_written=counts.logged, on_dropped=counts.dropped)
    keys = KeyCheck(keys_path(settings, model), required=os.environ.get("WINDVANE_KEYS") == "required")
    service = partial(Service, slot, model=model, requests=requests, counts=counts, keys=keys)
    if options.bundle:
        if not slot.bring(Wanted(options.version, options.bundle), bundles=settings.bundles, model=model):
            raise WindvaneError(slot.error)
        app = service()
    else:
        from windvane.ledger import Ledger
        from windvane.scoring.follow_ledger import LedgerFollower

        ledger = Ledger(settings.database)
        follower = LedgerFollower(slot, ledger=ledger, bundles=settings.bundles, model=model, poll_seconds=options.poll)
        app = service(on_start=follower.start, on_stop=follower.stop)
    # the event loop, the predictions and the log take turns: short ones, so that nobody waits long
    sys.setswitchinterval(0.0002)
    # what is loaded now stays: no collection has to look through it again
    gc.collect()
    gc.freeze()
    # a large request makes thousands of lists, of which none is in a cycle
    gc.set_threshold(10_000, 20, 20)
    # uvicorn stops gracefully on these and then raises them again, which would make a clean stop look like a crash
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    log.info("%s: listens on http://%s:%d", model, *listener.getsockname()[:2])
    uvicorn.Server(server_config(app)).run(sockets=[listener])
    log.info("%s: stopped", model)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # a second server on the same port is refused only once somebody listens
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m windvane.scoring", description="Serve one model over HTTP.")
    parser.add_argument("--model", help="name of the model; with --bundle it defaults to the bundle's")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1, in a container 0.0.0.0")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--bundle", help="digest of the one bundle to serve; default: what the release ledger says")
    parser.add_argument("--version", type=int, help="version that --bundle is")
    parser.add_argument("--poll", type=float, default=0.5, help="seconds between two looks at the ledger; default 0.5")
    options = parser.parse_args(arguments)
    if not options.model and not options.bundle:
        parser.error("give --model to follow the release ledger, or --bundle and --version to serve one version")
    if bool(options.bundle) != (options.version is not None):
        parser.error("--bundle and --version go together")
    if not 0 <= options.port <= 65535 or options.poll <= 0:
        parser.error("allowed are --port 0 to 65535 and --poll above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
