"""Pods as processes of this machine: each container is started with the arguments, volumes and secrets of its manifest."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes_written_pods import Pods

_STOP_SECONDS = 30


class ProcessPods(Pods):
    """A kubelet of sorts, without isolation.

    Args:
        root: Where volumes are.
        secret: What the secret of the object store holds.
    """

    def __init__(self, root: Path, secret: Mapping[str, str]) -> None:
        super().__init__()
        self.slow = 0
        self._root = root
        self._secret = dict(secret)
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._ports: dict[str, int] = {}
        self._rehearsals: dict[str, Any] = {}
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._sent = 0

    def start(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self._running[name] = []
        for container in pod["spec"]["initContainers"]:
            process = self._container(pod, container)
            if container.get("restartPolicy") == "Always":
                self._running[name].append(process)
            elif process.wait(60):
                return
        self._ports[name] = _free_port()
        self._running[name].append(self._container(pod, pod["spec"]["containers"][0], port=self._ports[name]))

    def stop(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        # sidecars stop after what they serve, the last that was started first
        for process in reversed(self._running.pop(name, [])):
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)
        shutil.rmtree(self._root / name, ignore_errors=True)

    def kill(self, name: str) -> None:
        """End the scorer of a pod as the kernel does when it runs out of memory."""
        self._running[name][-1].kill()
        self._running[name][-1].wait(_STOP_SECONDS)

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop({"metadata": {"name": name}})

    def is_ready(self, pod: dict[str, Any]) -> bool:
        try:
            return bool(self.get(pod, "/ready"))
        except OSError:
            return False

    def get(self, pod: dict[str, Any], path: str) -> bytes:
        with self._http.open(f"http://127.0.0.1:{self._ports[pod['metadata']['name']]}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def score(self, pod: dict[str, Any]) -> int:
        self._sent += 1
        row = {"calls": (self._sent % 17 - 8) / 5, "months": (self._sent % 13 - 6) / 5, "customer": f"c{self._sent}"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._ports[pod['metadata']['name']]}/invocations",
            data=json.dumps({"dataframe_records": [row]}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._http.open(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except OSError:
            return 503

    def rehearse(self, pod: dict[str, Any]) -> dict[str, tuple[int, str]] | None:
        name = pod["metadata"]["name"]
        if name not in self._rehearsals:
            self._rehearsals[name] = None
            threading.Thread(target=self._rehearse, args=(pod,), daemon=True).start()
        return self._rehearsals[name]

    def _rehearse(self, pod: dict[str, Any]) -> None:
        found = {}
        for container in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]:
            process = self._container(pod, container)
            output, _ = process.communicate(timeout=120)
            found[container["name"]] = (process.returncode, output.decode())
            if process.returncode:
                break
        shutil.rmtree(self._root / pod["metadata"]["name"], ignore_errors=True)
        self._rehearsals[pod["metadata"]["name"]] = found

    def _container(self, pod: dict[str, Any], container: dict[str, Any], *, port: int | None = None) -> subprocess.Popen[bytes]:
        place = self._root / pod["metadata"]["name"]
        paths = {}
        root = Path(tempfile.mkdtemp(prefix="root-", dir=_made(place)))
        for mount in container["volumeMounts"]:
            volume = _made(place / "volumes" / mount["name"])
            paths[mount["mountPath"]] = root / mount["mountPath"].lstrip("/")
            _made(paths[mount["mountPath"]].parent)
            paths[mount["mountPath"]].symlink_to(volume)
        arguments = [_moved(text, paths) for text in container["args"]]
        if port:
            arguments[arguments.index("--port") + 1] = str(port)
            arguments[arguments.index("--host") + 1] = "127.0.0.1"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            # the image's own
            "OMP_NUM_THREADS": "1",
            "WINDVANE_VAR": str(_made(root / "var" / "windvane")),
            "WINDVANE_BUNDLES": str(root / "bundles"),
            **(self._secret if container.get("envFrom") else {}),
        }
        rehearses = pod["spec"].get("restartPolicy") == "Never"
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if rehearses else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if rehearses else subprocess.DEVNULL,
        )


def _moved(text: str, paths: Mapping[str, Path]) -> str:
    for path, place in paths.items():
        if text == path or text.startswith(f"{path}/"):
            return f"{place}{text[len(path) :]}"
    return text


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
