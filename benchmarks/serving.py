"""The scoring service with the flights' model against `mlflow models serve` and BentoML: one worker each, the same rows and cores.

    python benchmarks/serving.py [--seconds 5] [--only windvane mlflow bentoml]

The load comes from a process of its own: keep-alive connections, each with one request under way, each request another row; only
answers with the status 200 that parse count. Peers get the model's features ready made, which the service computes itself from
what a client knows. BentoML is installed into an environment of its own, var/bench/bentoml.
"""

import argparse
import asyncio
import gc
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from windvane.settings import REPOSITORY, load_settings

MODEL = "flight_delay"
WINDOW = ("2013-01-01", "2013-04-01")
FEATURES = ["carrier", "origin", "dest", "distance", "minute_of_day", "weekday"]
CONNECTIONS = (1, 16, 64)
WARM_UP_SECONDS = 1.0
OVERLOAD_CONNECTIONS = 1024
USEFUL_SECONDS = 1.0
BATCH_ROWS = 1000
BENTO_SERVICE = """
import bentoml
import pandas as pd
import skops.io


@bentoml.service(workers=1)
class Flights:
    def __init__(self) -> None:
        self.pipeline = skops.io.load("model.skops", trusted=skops.io.get_untrusted_types(file="model.skops"))

    @bentoml.api
    def predict(self, frame: pd.DataFrame) -> list:
        return self.pipeline.predict(frame).tolist()
"""


@dataclass(frozen=True)
class Load:
    """What one run of the generator found.

    Attributes:
        rate: Answers with status 200 per second; of an open loop only those within USEFUL_SECONDS.
        sent: Requests per second that found a free connection.
        other: How many answers had any other status.
        cores: How much of the machine's cores the generator itself took.
    """

    rate: float
    sent: float
    p50_ms: float
    p99_ms: float
    other: dict[str, int]
    cores: float


@dataclass(frozen=True)
class Server:
    """How a server is started: `{port}` in the command is replaced, `ready` is the path that answers 200 once it serves."""

    name: str
    command: list[str]
    ready: str
    environ: dict[str, str]


class Connection(asyncio.Protocol):
    """Sends a request when told to, and tells when its answer is complete."""

    def __init__(self, on_answer: Callable[["Connection", float, bytes, bytes], None]) -> None:
        self._on_answer = on_answer
        self._received = b""
        self._began = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> None:
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        head = received.find(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", received[:head]) if head >= 0 else None
        if length is not None and len(received) >= head + 4 + int(length[1]):
            self._received = b""
            self._on_answer(self, self._began, received[9:12], received[head + 4 :])


async def generate(port: int, requests: list[bytes], *, connections: int, seconds: float, rate: float | None) -> Load:
    """Load a server: closed loop, or open loop at `rate` requests per second."""
    import orjson

    bodies, free, other, sent = itertools.cycle(requests), list[Connection](), dict[str, int](), 0
    latencies: list[float] = []

    def ask(connection: Connection) -> None:
        nonlocal sent
        sent += time.perf_counter() >= count_from
        connection.ask(next(bodies))

    def answered(connection: Connection, began: float, status: bytes, body: bytes) -> None:
        now = time.perf_counter()
        if count_from <= now < stop_at:
            if status == b"200" and orjson.loads(body):
                latencies.append(now - began)
            else:
                other[status.decode()] = other.get(status.decode(), 0) + 1
        if rate is not None:
            free.append(connection)
        elif now < stop_at:
            ask(connection)

    for _ in range(connections):
        free.append((await asyncio.get_running_loop().create_connection(lambda: Connection(answered), "127.0.0.1", port))[1])
    began = time.perf_counter()
    count_from = began + WARM_UP_SECONDS
    stop_at = count_from + seconds
    gc.disable()
    used = time.process_time()
    if rate is None:
        for connection in free:
            ask(connection)
        await asyncio.sleep(stop_at - time.perf_counter())
    else:
        due = 0
        while (now := time.perf_counter()) < stop_at:
            came, due = int((now - began) * rate) - due, int((now - began) * rate)
            # an arrival that finds every connection busy is lost, as a client that gives up
            for connection in [free.pop() for _ in range(min(came, len(free)))]:
                ask(connection)
            await asyncio.sleep(0.001)
    cores = (time.process_time() - used) / (seconds + WARM_UP_SECONDS)
    useful = sorted(latency for latency in latencies if rate is None or latency <= USEFUL_SECONDS)
    if not useful:
        raise SystemExit(f"port {port}: no answer with status 200; others: {other}")
    p50, p99 = useful[len(useful) // 2], useful[int(len(useful) * 0.99)]
    return Load(rate=len(useful) / seconds, sent=sent / seconds, p50_ms=1000 * p50, p99_ms=1000 * p99, other=other, cores=cores)


def run_generator(port: int, requests: list[bytes], connections: int, seconds: float, rate: float | None = None) -> Load:
    """`generate` on uvloop, for a process of its own."""
    import uvloop

    return uvloop.run(generate(port, requests, connections=connections, seconds=seconds, rate=rate))


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this file in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def prepare(root: Path) -> tuple[str, str]:
    """Train on the window's flights; returns the digests of the bundle and of its like without ONNX.

    Beside them: `mlflow_model`, `rows.parquet` (rows as clients know them) and `features.parquet` (as the pipeline wants them).
    """
    import mlflow.sklearn
    import skops.io

    from windvane.bundle import open_bundle
    from windvane.config import code_path
    from windvane.lake import Lake
    from windvane.load_config import load_model_config
    from windvane.model_code import load_model_code
    from windvane.predictor import make_features
    from windvane.signature import columns_from_json, conform
    from windvane.snapshot import plan_training
    from windvane.train_model import train_model
    from windvane.windows import Window

    settings = load_settings({**os.environ, "WINDVANE_VAR": str(root), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"})
    config = load_model_config(settings.project, MODEL)
    # no search: the pipeline's own defaults, 100 iterations
    config = config.model_copy(update={"train": config.train.model_copy(update={"search": None})})
    code = load_model_code(code_path(settings.project, MODEL), MODEL)
    lake, window = Lake(settings.lake), Window(*WINDOW)  # type: ignore[arg-type]
    rows = code.read(window, None)  # type: ignore[misc]
    rows["scheduled_departure"] = rows["scheduled_departure"].dt.as_unit("us")
    lake.overwrite_window(MODEL, "raw", rows, window=window, time=config.data.time)
    snapshot = plan_training(config, code, lake, window=window, settings=settings)
    bundle = open_bundle(settings.bundles, train_model(config, code, settings, lake, snapshot).bundle_digest)

    rows = rows.sample(20_000, random_state=1, ignore_index=True)
    features = make_features(code, conform(rows, columns_from_json(bundle.manifest["signature"])))[FEATURES]
    rows.to_parquet(root / "rows.parquet")
    features.to_parquet(root / "features.parquet")
    shutil.copyfile(bundle.path / "model.skops", root / "model.skops")
    trusted = skops.io.get_untrusted_types(file=root / "model.skops")
    mlflow.sklearn.save_model(
        skops.io.load(root / "model.skops", trusted=trusted),
        root / "mlflow_model",
        signature=mlflow.models.infer_signature(features),
        skops_trusted_types=trusted,
        pip_requirements=["mlflow", "scikit-learn", "pandas", "skops"],
    )
    return bundle.digest, copy_without_onnx(settings.bundles, bundle.digest)


def copy_without_onnx(bundles: Path, digest: str) -> str:
    """Make a bundle of the same model that serves from skops."""
    from windvane.bundle import canonical
    from windvane.read_manifest import MANIFEST

    building = shutil.copytree(bundles / digest, bundles / "without-onnx")
    (building / "model.onnx").unlink(missing_ok=True)
    manifest = json.loads((building / MANIFEST).read_bytes())
    manifest["files"].pop("model.onnx", None)
    data = canonical(manifest | {"runtime": {"format": "skops", "reason": "a benchmark of this path"}})
    (building / MANIFEST).write_bytes(data)
    building.rename(bundles / hashlib.sha256(data).hexdigest())
    return hashlib.sha256(data).hexdigest()


def bare_rows_per_second(bundles: Path, digest: str, rows: Path) -> float:
    """What `Predictor.predict_columns` does alone, with columns that are ready, BATCH_ROWS at a time."""
    import pandas as pd

    from windvane.bundle import open_bundle
    from windvane.predictor import load_predictor
    from windvane.signature import arrays_of, conform

    predictor = load_predictor(open_bundle(bundles, digest))
    frame = conform(pd.read_parquet(rows), predictor.signature)
    parts = [arrays_of(frame.iloc[start : start + BATCH_ROWS], predictor.signature) for start in range(0, len(frame), BATCH_ROWS)]
    times = []
    for part in parts * 5:
        began = time.perf_counter()
        predictor.predict_columns(part)
        times.append(time.perf_counter() - began)
    return BATCH_ROWS / statistics.median(times[5:])


def requests_of(root: Path) -> dict[str, list[bytes]]:
    """The bytes of requests by kind, each of other rows."""
    import pandas as pd

    rows = pd.read_parquet(root / "rows.parquet").drop(columns="late")
    rows["scheduled_departure"] = rows["scheduled_departure"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    features = pd.read_parquet(root / "features.parquet")

    def post(path: str, document: dict[str, Any]) -> bytes:
        body = json.dumps(document)
        head = ["Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([f"POST {path} HTTP/1.1", *head, "", body]).encode()

    def split(part: pd.DataFrame) -> bytes:
        return post("/invocations", {"dataframe_split": part.to_dict(orient="split", index=False)})

    def infer(part: pd.DataFrame) -> bytes:
        kinds = {name: "FP64" if part[name].dtype == "float64" else "BYTES" for name in part}
        tensors = [{"name": name, "datatype": kind, "shape": [len(part)], "data": part[name].tolist()} for name, kind in kinds.items()]
        return post(f"/v2/models/{MODEL}/infer", {"inputs": tensors})

    single, large = range(5000), [slice(start, start + BATCH_ROWS) for start in range(0, len(rows), BATCH_ROWS)]
    return {
        "windvane": [split(rows.iloc[[row]]) for row in single],
        "windvane v2": [infer(rows.iloc[[row]]) for row in single],
        "windvane, large": [split(rows.iloc[part]) for part in large],
        "windvane v2, large": [infer(rows.iloc[part]) for part in large],
        "mlflow": [split(features.iloc[[row]]) for row in single],
        "bentoml": [post("/predict", {"frame": features.iloc[[row]].to_dict(orient="records")}) for row in single],
    }


def make_servers(root: Path, digest: str, without_onnx: str) -> Iterator[Server]:
    """The servers to measure, in turn."""
    binaries = Path(sys.executable).parent
    for name, served in {"windvane": digest, "windvane skops": without_onnx}.items():
        command = [sys.executable, "-m", "windvane.scoring", "--bundle", served, "--version", "1", "--port", "{port}"]
        yield Server(name, command, "/ready", {"WINDVANE_VAR": str(root)})
    command = [str(binaries / "mlflow"), "models", "serve", "--env-manager", "local", "--port", "{port}", "--model-uri", "mlflow_model"]
    # it looks for uvicorn on the path
    yield Server("mlflow", command, "/ping", {"PATH": f"{binaries}:{os.environ['PATH']}"})
    python = install_bentoml(REPOSITORY / "var" / "bench" / "bentoml")
    if python is not None:
        (root / "service.py").write_text(BENTO_SERVICE)
        command = [str(python), "-m", "bentoml", "serve", "service:Flights", "--port", "{port}"]
        yield Server("bentoml", command, "/readyz", {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(root / "bentoml")})


def install_bentoml(directory: Path) -> Path | None:
    """The Python of an environment with BentoML and this environment's model libraries; None when it cannot be installed."""
    python = directory / "bin" / "python"
    uv = str(Path(sys.executable).parent / "uv")
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in ("scikit-learn", "pandas", "numpy", "skops")]
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), "bentoml>=1.4,<1.5", *pins]
    for command in (*([] if python.exists() else [[uv, "venv", "--quiet", "--python", sys.executable, str(directory)]]), install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"BentoML is left out, it cannot be installed: {done.stderr.strip()[-500:]}", flush=True)
            return None
    return python


@contextmanager
def started(server: Server, directory: Path) -> Iterator[tuple[int, int, float]]:
    """Run a server until the block ends; yields its port, its process and the seconds until it was ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = directory / f"{server.name}.log"
    command = [part.replace("{port}", str(port)) for part in server.command]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=os.environ | server.environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while True:
            # a status other than 2xx is an error of urllib, and so of the operating system
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{server.ready}", timeout=5):
                break
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit(f"{server.name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.01)
        yield port, process.pid, time.perf_counter() - began
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(20)


def measure(root: Path, *, seconds: float, only: list[str]) -> dict[str, Any]:
    """Train, start each server in turn and load it; returns the figures by server."""
    digest, without_onnx = in_a_process(prepare, root)
    requests = requests_of(root)
    figures: dict[str, Any] = {}
    for server in make_servers(root, digest, without_onnx):
        if server.name.split()[0] not in only:
            continue

        def load(kind: str, connections: int, rate: float | None = None) -> Load:
            return in_a_process(run_generator, port, requests[kind], connections, seconds, rate)  # type: ignore[no-any-return]

        with started(server, root) as (port, pid, start_seconds):
            loads = {connections: load(server.name.split()[0], connections) for connections in CONNECTIONS}
            found = {"loads": loads, "start_seconds": start_seconds, **memory_mib(pid)}
            if server.name == "windvane":
                found["overload"] = load("windvane", OVERLOAD_CONNECTIONS, 2 * loads[64].rate)
                found["v2"] = load("windvane v2", 64)
                found["large_rows_per_second"] = {kind: BATCH_ROWS * load(f"{kind}, large", 4).rate for kind in ("windvane", "windvane v2")}
                found["bare_rows_per_second"] = in_a_process(bare_rows_per_second, root / "bundles", digest, root / "rows.parquet")
                found["at_the_end"] = memory_mib(pid)
        figures[server.name] = found
        print(f"{server.name} is measured", file=sys.stderr, flush=True)
    return figures


def memory_mib(pid: int) -> dict[str, float]:
    """Resident and unique memory of a process and of all below it."""
    import psutil

    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    memory = [process.memory_full_info() for process in tree]
    return {kind: sum(getattr(part, kind) for part in memory) / 2**20 for kind in ("rss", "uss")}


def report(figures: dict[str, Any]) -> None:
    """Print the table, the goals and one line of JSON."""
    peers = [name for name in ("mlflow", "bentoml") if name in figures]
    print(f"{'server':<16}{'connections':>12}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}" + "".join(f"{'x ' + peer:>11}" for peer in peers))
    for name, found in figures.items():
        for connections, load in found["loads"].items():
            ratios = "".join(f"{load.rate / figures[peer]['loads'][connections].rate:>11.1f}" for peer in peers)
            print(f"{name:<16}{connections:>12}{load.rate:>10,.0f}{load.p50_ms:>9.2f}{load.p99_ms:>9.2f}{ratios}")
    print(f"\n{'server':<16}{'ready s':>8}{'RSS MiB':>9}{'USS MiB':>9}")
    for name, found in figures.items():
        print(f"{name:<16}{found['start_seconds']:>8.2f}{found['rss']:>9.0f}{found['uss']:>9.0f}")
    if "windvane" in figures:
        ours = figures["windvane"]
        large, over = ours["large_rows_per_second"], ours["overload"]
        print(f"\nOpen Inference v2, 64 connections: {ours['v2'].rate:,.0f} req/s, p99 {ours['v2'].p99_ms:.2f} ms")
        print(f"{BATCH_ROWS:,}-row requests: {large['windvane']:,.0f} rows/s, v2 {large['windvane v2']:,.0f} rows/s; ", end="")
        print(f"the bare predictor: {ours['bare_rows_per_second']:,.0f} rows/s")
        print(f"twice the rate of 64, open loop, {OVERLOAD_CONNECTIONS} connections: {over.sent:,.0f} req/s sent, ", end="")
        print(f"{over.rate:,.0f} useful/s, p99 {over.p99_ms:.0f} ms, other answers {over.other}")
        print(f"cores that the generator took itself: {over.cores:.2f}, at the rate of 64 {ours['loads'][64].cores:.2f}")
        print(f"at the end: {ours['at_the_end']['rss']:.0f} MiB RSS\n")
        for goal, value, least, most in goals(figures):
            met = least <= value <= most
            print(f"{'met    ' if met else 'NOT met'} {goal}: {value:.2f}, goal {f'>= {least:g}' if least else f'<= {most:g}'}")
    print(json.dumps(figures, default=asdict, allow_nan=False))


def goals(figures: dict[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """Name, figure, least and most of every goal that could be measured."""
    ours, no_end = figures["windvane"], float("inf")
    at_64 = {name: found["loads"][64] for name, found in figures.items()}
    if "mlflow" in figures:
        yield "x mlflow at 64 connections", at_64["windvane"].rate / at_64["mlflow"].rate, 50, no_end
        yield "skops path, x mlflow at 64 connections", at_64["windvane skops"].rate / at_64["mlflow"].rate, 5, no_end
    if "bentoml" in figures:
        yield "x bentoml at 64 connections", at_64["windvane"].rate / at_64["bentoml"].rate, 30, no_end
    yield "p99 ms at 64 connections", at_64["windvane"].p99_ms, 0, 20
    yield "seconds until ready", ours["start_seconds"], 0, 1
    yield "RSS MiB after 64 connections", ours["rss"], 0, 120
    yield "1,000-row requests / bare predictor", max(ours["large_rows_per_second"].values()) / ours["bare_rows_per_second"], 0.8, no_end
    yield "goodput kept at twice the saturating rate", ours["overload"].rate / at_64["windvane"].rate, 0.9, no_end


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load after a second of warm-up; default 5")
    parser.add_argument("--only", nargs="+", default=["windvane", "mlflow", "bentoml"], help="servers to measure; default all")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    directory = Path(tempfile.mkdtemp(prefix="windvane-bench-"))
    try:
        report(measure(directory, seconds=options.seconds, only=options.only))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
