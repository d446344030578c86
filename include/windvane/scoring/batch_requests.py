"""Gives waiting requests to the one prediction thread, all that wait at a time, and their answers back to the event loop."""

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
MAX_WAITING = 512
MAX_WAITING_BYTES = 64_000_000
# about a thousand rows: more are hardly cheaper together, and make the others wait
_BATCH_BYTES = 128_000
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
    a thousand rows, and only those of one version. A batch that takes longer than a request may is given up: its requests
    get 503, and a new thread takes the next, up to three times.

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
        self._running: list[_Waiting] | None = None
        self._planned = False
        self._stuck = 0
        self._worker: _Worker | None = None
        self._look: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the prediction thread."""
        self._loop = asyncio.get_running_loop()
        self._worker = _Worker(self._loop, self._deliver)

    def stop(self) -> None:
        """Let the thread end after what it does now."""
        if self._look is not None:
            self._look.cancel()
        if self._worker is not None:
            self._worker.queue.put(None)

    @property
    def full(self) -> bool:
        """Whether a further request has to be refused."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

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
        if self._running is None and not self._planned:
            self._planned = True
            self._loop.call_soon(self._dispatch)
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._give_up_late)
        return answer

    def _dispatch(self) -> None:
        self._planned = False
        if self._running is not None or not self._waiting or self._worker is None or self.stuck:
            return
        served, size = self._waiting[0].served, 0
        batch: list[_Waiting] = []
        while self._waiting and self._waiting[0].served is served and (not batch or size + len(self._waiting[0].job.body) <= _BATCH_BYTES):
            batch.append(self._waiting.popleft())
            size += len(batch[-1].job.body)
        self._waiting_bytes -= size
        self._running = batch
        self._worker.queue.put(batch)

    def _deliver(self, batch: list[_Waiting], scored: Scored) -> None:
        if batch is not self._running:
            # it was given up; that it ended after all frees a thread
            self._stuck -= 1
            return
        self._running = None
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
        if self._running and self._running[0].until <= now and self._worker is not None:
            log.error("version %d: a prediction of %d requests hangs and is given up", self._running[0].served.version, len(self._running))
            for one in self._running:
                _settle(one.answer, late)
            self._running = None
            self._stuck += 1
            self._worker.queue.put(None)
            self._worker = _Worker(self._loop, self._deliver)
            self._dispatch()
        if self._waiting or self._running:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._give_up_late)


def _settle(answer: "asyncio.Future[Answer]", result: Answer | RequestError) -> None:
    # a client that left has cancelled its request
    if answer.done():
        return
    if isinstance(result, RequestError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


class _Worker:
    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[_Waiting], Scored], None]) -> None:
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
                self._loop.call_soon_threadsafe(self._deliver, batch, scored)
            except RuntimeError:
                log.debug("the service has stopped; %d answers are not sent", len(batch))
                return
