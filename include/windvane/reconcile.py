"""Brings everything that is only a cache of the release ledger back in line with it, again and again.

Caches are: the MLflow alias `champion`, containers and HAProxy's state, and the scoring server processes, whose parent
the `Reconciler` is. A shift past its `until` is reverted here, and bundles and images that nothing needs are removed.
"""

import fcntl
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from windvane.align_alias import AliasMemory, align_alias
from windvane.config import ModelConfig
from windvane.deployment import open_target, revert_expired
from windvane.errors import ConfigError, ServiceUnavailable, StaleEpoch, StorageError, WindvaneError
from windvane.ledger import Ledger
from windvane.load_config import list_configs
from windvane.reload_config import reload_config
from windvane.report_state import read_report, write_report
from windvane.retain_releases import retain_releases
from windvane.settings import Settings
from windvane.supervise_servers import Servers

_CHILDREN_SECONDS = 1.0
_RETAIN_SECONDS = 600.0

log = logging.getLogger(__name__)


@dataclass
class Look:
    """What one look at a model, or at all of them, came to: lines for people."""

    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Memory:
    """What is kept from look to look, so that a model that is in line costs little.

    Attributes:
        aliases: When MLflow was asked last.
        retained: Of each model the epoch of the last promotion, and when old bundles and images were last removed.
    """

    aliases: AliasMemory = field(default_factory=AliasMemory)
    retained: dict[str, tuple[int, float]] = field(default_factory=dict)


def reconcile(settings: Settings, *, memory: Memory | None = None) -> list[str]:
    """Bring ledger, targets and aliases in line once; return what was done, and then what could not be done."""
    memory = memory or Memory()
    configs, problems = read_configs(settings)
    looks = [reconcile_model(settings, model, configs.get(model), memory=memory) for model in _models(settings)]
    looks.append(_remove_left_behind(settings, configs))
    return [line for look in looks for line in look.done] + problems + [line for look in looks for line in look.problems]


def reconcile_model(settings: Settings, model: str, config: ModelConfig | None, *, memory: Memory) -> Look:
    """Bring one model in line; what fails is told and hinders no other step.

    Args:
        config: None if it cannot be read: then what runs for the model is left as it is.
        memory: Updated.
    """
    look = Look()
    ledger = Ledger(settings.database)
    try:
        try:
            reverted = revert_expired(ledger, model)
            if reverted:
                look.done.append(f"{model}: epoch {reverted.epoch}: reverted the shift to version {reverted.version}: {reverted.reason}")
        except StaleEpoch as exc:
            look.problems.append(f"{model}: {exc}")
        release = ledger.last(model)
        if release is None:
            return look
        if config:
            try:
                look.done += open_target(config, settings).align(release)
            except WindvaneError as exc:
                look.problems.append(f"{model}: the target is not in line: {exc}")
        digest = ledger.digest_of(model, release.serving) if release.serving is not None else None
        try:
            if digest:
                look.done += align_alias(settings, release, digest, config=config, memory=memory.aliases)
        except ServiceUnavailable as exc:
            look.problems.append(f"{model}: the alias 'champion' is not in line: {exc}")
        if config:
            _retain(settings, ledger, config, memory=memory, look=look)
    finally:
        ledger.close()
    return look


def read_configs(settings: Settings) -> tuple[dict[str, ModelConfig], list[str]]:
    """The configs that can be read, by model, and the problems of the others."""
    configs, problems = {}, []
    for path in list_configs(settings.project):
        try:
            configs[path.stem] = reload_config(path)
        except ConfigError as exc:
            problems.append(str(exc))
    return configs, problems


class Reconciler:
    """The daemon: every second it looks after the scoring servers, and less often after the rest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._every = 10.0
        self._stopping = threading.Event()
        self._servers = Servers(settings)
        self._memory = Memory()
        self._looks: dict[str, Look] = {}
        self._threads: dict[str, threading.Thread] = {}

    def run(self, *, every_seconds: float = 10) -> None:
        """Work until SIGTERM or SIGINT, then stop the servers.

        Args:
            every_seconds: Time between two looks at configs, ledger, targets and aliases.

        Raises:
            StorageError: If another reconciler of this installation runs.
        """
        self._every = every_seconds
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        with _only_one(self._settings.var / "reconciler.lock"):
            log.info("the reconciler of %s begins (process %d)", self._settings.var, os.getpid())
            # MLflow and Docker may take long to answer; a dead server must not wait for them
            state = threading.Thread(target=self._keep_state, name="state", daemon=True)
            state.start()
            try:
                self._keep_servers()
            finally:
                self._stopping.set()
                self._servers.stop()
                state.join(timeout=5)
            log.info("the reconciler stopped its servers and ends")

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _keep_servers(self) -> None:
        ports: dict[str, int] = {}
        looked = float("-inf")
        while not self._stopping.is_set():
            try:
                if time.monotonic() - looked >= self._every:
                    looked = time.monotonic()
                    ports = self._wanted(ports)
                    self._servers.align(ports)
                else:
                    self._servers.check()
            except OSError as exc:
                log.error("the scoring servers could not be looked after: %s; trying again", exc)
            self._stopping.wait(_CHILDREN_SECONDS)

    def _wanted(self, before: dict[str, int]) -> dict[str, int]:
        configs, _ = read_configs(self._settings)
        broken = {path.stem for path in list_configs(self._settings.project)} - set(configs)
        # a config that cannot be read does not take away what serves
        kept = {model: port for model, port in before.items() if model in broken}
        return kept | {model: config.deploy.port for model, config in configs.items() if config.deploy.target == "process"}

    def _keep_state(self) -> None:
        report, said = read_report(self._settings), set[str]()
        while not self._stopping.is_set():
            done, problems = self._look_at_all()
            for line in done:
                log.info("%s", line)
            for line in problems:
                if line not in said:
                    log.warning("%s", line)
            said = set(problems)
            report = report.after(done=done, problems=problems)
            try:
                write_report(self._settings, report)
            except StorageError as exc:
                log.error("%s", exc)
            self._stopping.wait(self._every)

    def _look_at_all(self) -> tuple[list[str], list[str]]:
        """Look at every model in a thread of its own: one that waits for its containers must not keep the others waiting."""
        common = Look()
        try:
            configs, problems = read_configs(self._settings)
            common.problems += problems
            for model in _models(self._settings):
                if model not in self._threads:
                    self._threads[model] = threading.Thread(target=self._look_at, args=(model, configs.get(model)), name=model, daemon=True)
                    self._threads[model].start()
            left_behind = _remove_left_behind(self._settings, configs)
            common.done += left_behind.done
            common.problems += left_behind.problems
        except (WindvaneError, OSError) as exc:
            common.problems.append(f"{type(exc).__name__}: {exc}")
        give_up = time.monotonic() + self._every
        done = common.done
        for model, thread in list(self._threads.items()):
            thread.join(max(give_up - time.monotonic(), 0))
            if not thread.is_alive():
                del self._threads[model]
                done += self._looks[model].done
        return done, common.problems + [line for look in self._looks.values() for line in look.problems]

    def _look_at(self, model: str, config: ModelConfig | None) -> None:
        try:
            self._looks[model] = reconcile_model(self._settings, model, config, memory=self._memory)
        # whatever it was, the next look may succeed, and the other models have theirs
        except Exception as exc:
            log.exception("%s: the look failed", model)
            self._looks[model] = Look(problems=[f"{model}: {type(exc).__name__}: {exc}"])


def _retain(settings: Settings, ledger: Ledger, config: ModelConfig, *, memory: Memory, look: Look) -> None:
    """Remove what nothing needs: after a promotion, and every ten minutes."""
    promoted = ledger.promoted(config.model)
    epoch, at = memory.retained.get(config.model, (-1, 0.0))
    if epoch == promoted and time.monotonic() - at < _RETAIN_SECONDS:
        return
    try:
        look.done += retain_releases(settings, config, ledger.history(config.model))
    except ServiceUnavailable as exc:
        # MLflow or the engine is away, which is told where it matters; space can wait
        log.debug("%s: nothing old was removed: %s", config.model, exc)
    except StorageError as exc:
        look.problems.append(f"{config.model}: {exc}")
    memory.retained[config.model] = (promoted, time.monotonic())


def _models(settings: Settings) -> list[str]:
    ledger = Ledger(settings.database)
    try:
        return ledger.models()
    finally:
        ledger.close()


def _remove_left_behind(settings: Settings, configs: Mapping[str, ModelConfig]) -> Look:
    """Remove the containers of models that do not serve from containers any more: their port may be wanted."""
    served = {model for model, config in configs.items() if config.deploy.target == "docker"}
    # a config that cannot be read does not take away what serves
    broken = {path.stem for path in list_configs(settings.project)} - set(configs)
    look = Look()
    for directory in sorted(settings.var.glob("haproxy/*")):
        if directory.name in served | broken:
            continue
        from windvane.docker_target import stop_containers

        try:
            removed = stop_containers(settings, directory.name)
            shutil.rmtree(directory)
        except (ServiceUnavailable, OSError) as exc:
            look.problems.append(f"{directory.name}: its containers could not be removed: {exc}")
        else:
            look.done.append(f"{directory.name}: serves no more from containers; removed {', '.join(removed) or 'nothing'}")
    return look


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}; make WINDVANE_VAR writable") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(f"{path}: another reconciler of this installation runs; stop it with `make down`") from exc
        yield
