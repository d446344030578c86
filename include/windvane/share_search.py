"""One search that several processes work off together, until as many trials are tried as were asked for, and no more.

Claims are made one after the other, so that nobody starts a trial too many, and each draws its params with what the others try in view.
A trial whose worker died is silent; whoever claims next takes it for dead and tries its params once more.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from windvane.errors import ModelCodeError, WindvaneError
from windvane.store_trials import TrialStore, quietly

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class SharedSearch:
    """The trials of one training.

    Args:
        store: Where they are kept.
        key: Training key; who has the same one joins the same search.
        model: Name of the model. A new search ends what earlier trainings of the model left behind.
        trials: How many to try in all.
        seed: With a trial's number it gives the seed that its params are drawn with, whoever tries it.
    """

    def __init__(self, store: TrialStore, key: str, *, model: str, trials: int, seed: int) -> None:
        import optuna

        self._store, self._model, self._wanted, self._seed = store, model, trials, seed
        # of an advisory lock: 60 bits of the key
        self._lock = int(key[:15], 16)
        with store.lock(self._lock):
            self._study = optuna.create_study(storage=store.storage, study_name=key, direction="maximize", load_if_exists=True)
            is_new = "model" not in self._study.user_attrs
            if is_new:
                self._study.set_user_attr("model", model)
            self._id: int = store.storage.get_study_id_from_name(key)
        if is_new:
            # takes longer than the lock lasts where there is much to delete, and needs none
            forget_others(store, model, key)

    def trials(self) -> list[Any]:
        """All trials that there are, by number."""
        with self._store.explained():
            return list(self._study.get_trials(deepcopy=False))

    def work(
        self,
        space: Callable[[Any], Mapping[str, Any]],
        judge: Callable[[Mapping[str, Any]], float],
        *,
        worker: int,
        timeout_seconds: float,
    ) -> int:
        """Try params until none are left to try or the time is over; return the number of trials.

        Args:
            space: Draws params from a trial.
            judge: The value of params, where more is better. A ModelCodeError fails the trial only.
            worker: Which of the workers this is. What an earlier attempt of the same one left running is waited for.
        """
        started, tried = time.monotonic(), 0
        while time.monotonic() - started < timeout_seconds:
            trial = self._claim(worker)
            if trial is not None:
                self._try(trial, space, judge)
                tried += 1
            elif self._has_left_behind(worker):
                time.sleep(_POLL_SECONDS)
            else:
                break
        return tried

    def _claim(self, worker: int) -> Any | None:
        """The next trial; None if all are taken."""
        import optuna

        with self._store.lock(self._lock), quietly():
            optuna.storages.fail_stale_trials(self._study)
            trials = self._study.get_trials(deepcopy=False)
            repeats = sum(bool(optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history(trial)) for trial in trials)
            number = _next_waiting(trials)
            if number is None:
                if len(trials) - repeats >= self._wanted:
                    return None
                self._study.enqueue_trial({}, user_attrs={"worker": worker})
                number = len(trials)
            # before it runs: a trial that never gave a sign of life would not be missed
            self._store.storage.record_heartbeat(self._id_of(number))
            seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
            self._study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
            trial = self._study.ask()
            if trial.user_attrs.get("worker") != worker:
                trial.set_user_attr("worker", worker)
            return trial

    def _try(self, trial: Any, space: Callable[[Any], Mapping[str, Any]], judge: Callable[[Mapping[str, Any]], float]) -> None:
        from optuna.exceptions import TrialPruned
        from optuna.trial import TrialState

        started = time.monotonic()
        try:
            with self._alive(trial.number):
                with self._store.explained():
                    params = space(trial)
                value = float(judge(params))
        except ModelCodeError:
            self._tell(trial, state=TrialState.FAIL)
        except TrialPruned:
            self._tell(trial, state=TrialState.PRUNED)
        except WindvaneError:
            # the database or the disk failed, not the params: they are tried again
            raise
        except Exception:
            self._tell(trial, state=TrialState.FAIL)
            raise
        else:
            # what is not a number is not a value
            self._tell(trial, value) if value == value else self._tell(trial, state=TrialState.FAIL)
            log.info("%s: trial %d after %.1f s: %.4f with %s", self._model, trial.number + 1, time.monotonic() - started, value, params)

    def _tell(self, trial: Any, value: float | None = None, *, state: Any = None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            with self._store.explained():
                told = self._study.tell(trial, value, state=state, skip_if_finished=True)
            lost = value is not None and told.state != TrialState.COMPLETE
        except UpdateFinishedTrialError:
            lost = True
        if lost:
            log.warning("%s: trial %d gave no sign of life for too long; its params are tried again", self._model, trial.number + 1)

    @contextmanager
    def _alive(self, number: int) -> Iterator[None]:
        """Give signs of life of a trial."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(self._id_of(number), stop), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, trial_id: int, stop: threading.Event) -> None:
        from optuna.exceptions import StorageInternalError

        storage = self._store.storage
        while not stop.wait(self._store.heartbeat_seconds):
            try:
                storage.record_heartbeat(trial_id)
            except (StorageInternalError, SQLAlchemyError) as exc:
                # the database may be back before the silence is too long
                log.warning("%s: no sign of life could be given: %s", self._model, type(exc).__name__)
        storage.remove_session()

    def _has_left_behind(self, worker: int) -> bool:
        """Whether an earlier attempt of this worker left a trial that is not known to be dead yet."""
        from optuna.trial import TrialState

        return any(trial.state == TrialState.RUNNING and trial.user_attrs.get("worker") == worker for trial in self.trials())

    def _id_of(self, number: int) -> int:
        found: int = self._store.storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return found


def forget(store: TrialStore, key: str) -> None:
    """Delete a search; one that is not there is none to delete."""
    with store.explained():
        found = [study for study in store.storage.get_all_studies() if study.study_name == key]
        _delete(store, found)


def forget_others(store: TrialStore, model: str, key: str) -> None:
    """Delete the searches of a model whose trainings came to nothing: one training of a model runs at a time."""
    with store.explained():
        found = store.storage.get_all_studies()
        _delete(store, [study for study in found if study.user_attrs.get("model") == model and study.study_name != key])


def _delete(store: TrialStore, studies: list[Any]) -> None:
    for study in studies:
        try:
            store.storage.delete_study(store.storage.get_study_id_from_name(study.study_name))
        except KeyError:
            log.debug("search %s was deleted by another process", study.study_name)


def _next_waiting(trials: list[Any]) -> int | None:
    from optuna.trial import TrialState

    return min((trial.number for trial in trials if trial.state == TrialState.WAITING), default=None)
