"""Gives waiting requests to the prediction thread, all that wait at a time, and their answers back to the event loop."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import Answer, Job, Scored, score_batch
from windvane.scoring.serve_version import Served

log = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0
MAX_WAITING = 1536
# so many may wait where the first of them does not wait long: to refuse one costs half as much as to answer it
_MANY_WAITING = 512
_LONG_SECONDS = 0.25
MAX_WAITING_BYTES = 64_000_000
# about a thousand rows: more are hardly cheaper together, and make the others wait
_BATCH_BYTES = 128_000
# a few hundred rows: most of their time is spent in the model, which leaves the interpreter to others
_LARGE_BYTES = 16_000
_MOST_AT_ONCE = 2
_MAX_STUCK = 3
_LOOK_SECONDS = 0.25


class _Waiting(NamedTuple):
    served: Served
    job: Job
    answer: "asyncio.Future[Answer]"
    until: float


class Batcher:
    """Scores requests in a thread, so that a slow or hanging model never stops the event loop.

    A request that finds the thread idle goes at once. While the thread predicts, others wait and then go together, at most about
    a thousand rows, and only those of one version. Beside a large request one more batch is scored, in a second thread, where the
    version allows it. A batch that takes longer than a request may is given up: its requests get 503, and a new thread takes the
    next, up to three times.

    All methods but the thread's belong to the event loop.
    """

    def __init__(self, *, on_scored: Callable[[Served, Scored], None], answer_seconds: float = ANSWER_SECONDS) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            on_scored: Told what was scored, in the event loop, after the answers are on their way.
            answer_seconds: How long a request may take from its complete body on.
        """
        self._on_scored = on_scored
        self._answer_seconds = answer_seconds
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._planned = False
        self._stuck = 0
        self._workers: list[_Worker] = []
        self._look: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the prediction thread."""
        self._loop = asyncio.get_running_loop()
        self._workers.append(_Worker(self._loop, self._deliver))

    def stop(self) -> None:
        """Let the thread end after what it does now."""
        if self._look is not None:
            self._look.cancel()
        for worker in self._workers:
            worker.queue.put(None)

    @property
    def full(self) -> bool:
        """Whether a further request has to be refused."""
        waiting = len(self._waiting)
        if waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            return True
        return waiting >= _MANY_WAITING and time.perf_counter() - self._waiting[0].job.complete > _LONG_SECONDS

    @property
    def stuck(self) -> bool:
        """Whether predictions hang so often that no more threads are started."""
        return self._stuck > _MAX_STUCK

    def submit(self, served: Served, job: Job) -> "asyncio.Future[Answer]":
        """Score a request; the future holds the answer or the RequestError.

        Raises:
            RequestError: 503 if too many wait.
        """
        if self.full or self.stuck:
            reason = "predictions hang" if self.stuck else f"{len(self._waiting)} requests wait already"
            raise RequestError(503, f"{reason}; try again")
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(_Waiting(served, job, answer, job.complete + self._answer_seconds))
        self._waiting_bytes += len(job.body)
        # at the end of this turn of the loop, so that requests that came in the same turn go together
        if not self._planned and self._free_worker() is not None:
            self._planned = True
            self._loop.call_soon(self._dispatch)
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._give_up_late)
        return answer

    def _free_worker(self) -> "_Worker | None":
        """The thread that may take what waits now."""
        if not self._waiting or self.stuck:
            return None
        busy = [worker.batch for worker in self._workers if worker.batch]
        if not busy:
            return self._workers[0] if self._workers else None
        # many small requests spend their time in the interpreter, of which there is one: a second thread would only slow them down
        beside = len(busy) < _MOST_AT_ONCE and busy[0][0].served.side_by_side and self._waiting[0].served.side_by_side
        if not beside or not (_is_large(busy[0][0]) or _is_large(self._waiting[0])):
            return None
        free = next((worker for worker in self._workers if not worker.batch), None)
        if free is None:
            free = _Worker(self._loop, self._deliver)
            self._workers.append(free)
        return free

    def _dispatch(self) -> None:
        self._planned = False
        while (worker := self._free_worker()) is not None:
            served, size = self._waiting[0].served, 0
            batch: list[_Waiting] = []
            while (
                self._waiting and self._waiting[0].served is served and (not batch or size + len(self._waiting[0].job.body) <= _BATCH_BYTES)
            ):
                batch.append(self._waiting.popleft())
                size += len(batch[-1].job.body)
            self._waiting_bytes -= size
            worker.batch = batch
            worker.queue.put(batch)

    def _deliver(self, worker: "_Worker", batch: list[_Waiting], scored: Scored) -> None:
        if worker.batch is not batch:
            # it was given up; that it ended after all frees a thread
            self._stuck -= 1
            return
        worker.batch = None
        self._dispatch()
        for one, result in zip(batch, scored.results, strict=True):
            _settle(one.answer, result)
        self._on_scored(batch[0].served, scored)

    def _give_up_late(self) -> None:
        self._look = None
        now = time.perf_counter()
        late = RequestError(503, f"no answer within {self._answer_seconds:g} s; send fewer rows or try again", kind="timeout")
        while self._waiting and self._waiting[0].until <= now:
            one = self._waiting.popleft()
            self._waiting_bytes -= len(one.job.body)
            _settle(one.answer, late)
        for place, worker in enumerate(self._workers):
            if worker.batch and worker.batch[0].until <= now:
                log.error(
                    "version %d: a prediction of %d requests hangs and is given up", worker.batch[0].served.version, len(worker.batch)
                )
                for one in worker.batch:
                    _settle(one.answer, late)
                worker.batch = None
                worker.queue.put(None)
                self._stuck += 1
                self._workers[place] = _Worker(self._loop, self._deliver)
        self._dispatch()
        if self._waiting or any(worker.batch for worker in self._workers):
            self._look = self._loop.call_later(_LOOK_SECONDS, self._give_up_late)


def _is_large(one: _Waiting) -> bool:
    return len(one.job.body) >= _LARGE_BYTES


def _settle(answer: "asyncio.Future[Answer]", result: Answer | RequestError) -> None:
    # a client that left has cancelled its request
    if answer.done():
        return
    if isinstance(result, RequestError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


class _Worker:
    """A thread, and the batch that it scores; None once that is delivered or given up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[["_Worker", list[_Waiting], Scored], None]) -> None:
        self.batch: list[_Waiting] | None = None
        self.queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._loop = loop
        self._deliver = deliver
        threading.Thread(target=self._run, name="score", daemon=True).start()

    def _run(self) -> None:
        while (batch := self.queue.get()) is not None:
            try:
                scored = score_batch(batch[0].served, [one.job for one in batch])
            except Exception:
                log.exception("a defect of the scoring service; %d requests get 500", len(batch))
                scored = Scored([RequestError(500, "a defect of the scoring service; its log says more")] * len(batch), [])
            try:
                self._loop.call_soon_threadsafe(self._deliver, self, batch, scored)
            except RuntimeError:
                log.debug("the service has stopped; %d answers are not sent", len(batch))
                return
