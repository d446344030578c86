"""Brings everything that is only a cache of the release ledger back in line with it, again and again.

Caches are: the MLflow alias `champion`, containers and HAProxy's state, and the scoring server processes, whose parent
the `Reconciler` is. A shift past its `until` is reverted here.
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
from pathlib import Path
from types import FrameType

from windvane.config import ModelConfig
from windvane.deployment import open_target, revert_expired, sync_alias
from windvane.errors import ConfigError, ServiceUnavailable, StaleEpoch, StorageError, WindvaneError
from windvane.ledger import Ledger, Release
from windvane.load_config import list_configs, load_config
from windvane.settings import Settings
from windvane.supervise_servers import Servers

_CHILDREN_SECONDS = 1.0
_ALIAS_SECONDS = 60.0

log = logging.getLogger(__name__)


def reconcile(settings: Settings, *, aliases_known: dict[str, tuple[int, float]] | None = None) -> list[str]:
    """Bring ledger, targets and aliases in line once; return what was done and what could not be done.

    Args:
        aliases_known: Epoch and monotonic time at which each alias was last seen right; updated, and used to ask MLflow less often.
    """
    known = {} if aliases_known is None else aliases_known
    configs, done = read_configs(settings)
    ledger = Ledger(settings.database)
    try:
        for model in ledger.models():
            done += _reconcile_model(settings, ledger, model, configs.get(model), aliases_known=known)
    finally:
        ledger.close()
    return done + _remove_left_behind(settings, configs)


def read_configs(settings: Settings) -> tuple[dict[str, ModelConfig], list[str]]:
    """The configs that can be read, by model, and the problems of the others."""
    configs, problems = {}, []
    for path in list_configs(settings.project):
        try:
            configs[path.stem] = load_config(path)
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
        self._said: set[str] = set()

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
        known: dict[str, tuple[int, float]] = {}
        while not self._stopping.is_set():
            try:
                done = reconcile(self._settings, aliases_known=known)
            except (WindvaneError, OSError) as exc:
                done = [f"{type(exc).__name__}: {exc}"]
            for line in done:
                if line not in self._said:
                    log.info("%s", line)
            self._said = set(done)
            self._stopping.wait(self._every)


def _reconcile_model(
    settings: Settings, ledger: Ledger, model: str, config: ModelConfig | None, *, aliases_known: dict[str, tuple[int, float]]
) -> list[str]:
    done = []
    try:
        reverted = revert_expired(ledger, model)
        if reverted:
            done.append(f"{model}: epoch {reverted.epoch}: reverted the shift to version {reverted.version}: {reverted.reason}")
    except StaleEpoch as exc:
        done.append(f"{model}: {exc}")
    release = ledger.last(model)
    if release is None:
        return done
    if config:
        try:
            done += open_target(config, settings).align(release)
        except WindvaneError as exc:
            done.append(f"{model}: the target is not in line: {exc}")
    try:
        done += _align_alias(settings, release, known=aliases_known)
    except ServiceUnavailable as exc:
        done.append(f"{model}: the alias 'champion' is not in line: {exc}")
    return done


def _align_alias(settings: Settings, release: Release, *, known: dict[str, tuple[int, float]]) -> list[str]:
    """Point the alias at what serves, but not while a shift is under way: it may be reverted."""
    if release.serving is None or release.until:
        return []
    epoch, checked = known.get(release.model, (0, float("-inf")))
    if epoch == release.epoch and time.monotonic() - checked < _ALIAS_SECONDS:
        return []
    from windvane.register_model import CHAMPION, get_alias

    found = get_alias(settings, release.model, CHAMPION)
    if found is None or found[0] != release.serving:
        sync_alias(settings, release.model, release.serving)
    known[release.model] = (release.epoch, time.monotonic())
    if found is None or found[0] != release.serving:
        before = f"version {found[0]}" if found else "nothing"
        return [f"{release.model}: moved the alias '{CHAMPION}' from {before} to version {release.serving}"]
    return []


def _remove_left_behind(settings: Settings, configs: Mapping[str, ModelConfig]) -> list[str]:
    """Remove the containers of models that do not serve from containers any more: their port may be wanted."""
    served = {model for model, config in configs.items() if config.deploy.target == "docker"}
    # a config that cannot be read does not take away what serves
    broken = {path.stem for path in list_configs(settings.project)} - set(configs)
    done = []
    for directory in sorted(settings.var.glob("haproxy/*")):
        if directory.name in served | broken:
            continue
        from windvane.docker_target import stop_containers

        try:
            removed = stop_containers(settings, directory.name)
            shutil.rmtree(directory)
        except (ServiceUnavailable, OSError) as exc:
            done.append(f"{directory.name}: its containers could not be removed: {exc}")
        else:
            done.append(f"{directory.name}: serves no more from containers; removed {', '.join(removed) or 'nothing'}")
    return done


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
