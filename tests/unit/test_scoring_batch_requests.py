"""Requests that wait go together, too many are refused at once, and a model that hangs stops nobody else."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from windvane.predictor import Predictions
from windvane.scoring import batch_requests
from windvane.scoring.answer_infer import outputs_of
from windvane.scoring.batch_requests import Batcher
from windvane.scoring.parse_request import Layout
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import Job
from windvane.signature import Column

WAIT, HANG = -1.0, -2.0


class Model:
    """Says for each row how many were predicted together; -1 waits until it is let go, -2 waits longer."""

    def __init__(self, version=1, *, side_by_side=False):
        self.version = version
        self.side_by_side = side_by_side
        self.let_go = threading.Event()
        self.started = threading.Event()
        self.sizes = []
        self.predictor = SimpleNamespace(classes=None, predict_columns=self._predict)
        self.layout = Layout(columns=(Column("x", "double", False),), id=None, time=None)
        self.outputs = outputs_of(None, probabilities=False)
        self.digest, self.model = "d" * 64, "fake"

    def _predict(self, columns):
        self.started.set()
        self.sizes.append(len(columns["x"]))
        if WAIT in columns["x"]:
            self.let_go.wait(20)
        if HANG in columns["x"]:
            time.sleep(0.6)
        return Predictions(np.full(len(columns["x"]), float(self.version)), None)


def job(x=1.0, size=0):
    body = json.dumps({"instances": [{"x": x}], "params": None}).encode() + b" " * size
    return Job("mlflow", body, "application/json", "r", 0, time.perf_counter())


async def wait_for(event):
    while not event.is_set():
        await asyncio.sleep(0.005)


def run(test, **options):
    async def main():
        scored = []
        batcher = Batcher(on_scored=lambda served, found: scored.extend(found.rows), **options)
        batcher.start()
        try:
            return await asyncio.wait_for(test(batcher), 30), scored
        finally:
            batcher.stop()

    return asyncio.run(main())


def test_a_single_request_goes_at_once_and_waiting_ones_go_together():
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        later = [batcher.submit(model, job()) for _ in range(40)]
        model.let_go.set()
        return await asyncio.gather(first, *later)

    answers, scored = run(test)
    assert [json.loads(answer.body) for answer in answers] == [{"predictions": [1.0]}] * 41
    assert model.sizes == [1, 40]
    assert sum(rows.rows for rows in scored) == 41


def test_requests_of_two_versions_never_mix():
    old, new = Model(1), Model(2)

    async def test(batcher):
        first = batcher.submit(old, job(WAIT))
        await wait_for(old.started)
        later = [batcher.submit(old, job()), batcher.submit(new, job()), batcher.submit(new, job())]
        old.let_go.set()
        return await asyncio.gather(first, *later)

    answers, scored = run(test)
    assert [json.loads(answer.body)["predictions"] for answer in answers] == [[1.0], [1.0], [2.0], [2.0]]
    assert (old.sizes, new.sizes) == ([1, 1], [2])
    assert [rows.version for rows in scored] == [1, 1, 2]


def test_large_requests_do_not_go_together():
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        later = [batcher.submit(model, job(size=100_000)) for _ in range(3)]
        model.let_go.set()
        await asyncio.gather(first, *later)

    run(test)
    assert model.sizes == [1, 1, 1, 1]


def test_beside_a_large_request_one_more_batch_is_scored():
    model = Model(side_by_side=True)

    async def test(batcher):
        first = batcher.submit(model, job(WAIT, size=20_000))
        await wait_for(model.started)
        answers = await asyncio.gather(*[batcher.submit(model, job()) for _ in range(5)])
        assert not first.done()
        model.let_go.set()
        return [*answers, await first]

    answers, _ = run(test)
    assert [json.loads(answer.body) for answer in answers] == [{"predictions": [1.0]}] * 6
    assert model.sizes == [1, 5]


@pytest.mark.parametrize(("side_by_side", "size"), [(True, 0), (False, 20_000)], ids=["small", "own Python"])
def test_otherwise_one_batch_is_scored_at_a_time(side_by_side, size):
    model = Model(side_by_side=side_by_side)

    async def test(batcher):
        first = batcher.submit(model, job(WAIT, size=size))
        await wait_for(model.started)
        second = batcher.submit(model, job(size=size))
        await asyncio.sleep(0.1)
        assert model.sizes == [1]
        model.let_go.set()
        await asyncio.gather(first, second)

    run(test)


def test_a_large_request_that_hangs_does_not_hold_up_the_others():
    model = Model(side_by_side=True)

    async def test(batcher):
        hanging = batcher.submit(model, job(HANG, size=20_000))
        await wait_for(model.started)
        for _ in range(30):
            await batcher.submit(model, job())
            await asyncio.sleep(0.01)
        with pytest.raises(RequestError, match="no answer within"):
            await hanging
        await asyncio.sleep(0.6)
        assert not batcher.stuck
        return await asyncio.gather(*[batcher.submit(model, job()) for _ in range(3)])

    answers, _ = run(test, answer_seconds=0.2)
    assert len(answers) == 3


def test_too_many_requests_are_refused_at_once_and_those_that_wait_are_answered(monkeypatch):
    monkeypatch.setattr(batch_requests, "MAX_WAITING", 10)
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        later = [batcher.submit(model, job()) for _ in range(10)]
        assert batcher.full
        with pytest.raises(RequestError, match="10 requests wait already") as caught:
            batcher.submit(model, job())
        model.let_go.set()
        await asyncio.gather(first, *later)
        assert not batcher.full
        return caught.value

    error, _ = run(test)
    assert (error.status, error.kind) == (503, "overload")


def test_many_requests_wait_only_while_they_are_taken_quickly(monkeypatch):
    monkeypatch.setattr(batch_requests, "_MANY_WAITING", 10)
    monkeypatch.setattr(batch_requests, "_LONG_SECONDS", 0.2)
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        later = [batcher.submit(model, job()) for _ in range(10)]
        assert not batcher.full
        await asyncio.sleep(0.25)
        assert batcher.full
        model.let_go.set()
        await asyncio.gather(first, *later)

    run(test)


def test_few_requests_of_many_bytes_are_refused_too(monkeypatch):
    monkeypatch.setattr(batch_requests, "MAX_WAITING_BYTES", 1_000)
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        second = batcher.submit(model, job(size=2_000))
        assert batcher.full
        model.let_go.set()
        await asyncio.gather(first, second)
        assert not batcher.full

    run(test)


def test_a_model_that_hangs_gets_503_in_time_and_the_next_request_is_answered(caplog):
    model = Model()

    async def test(batcher):
        hanging = batcher.submit(model, job(HANG))
        await wait_for(model.started)
        waiting = batcher.submit(model, job())
        with pytest.raises(RequestError, match=r"no answer within 0\.2 s") as caught:
            await hanging
        with pytest.raises(RequestError, match="no answer within"):
            await waiting
        answer = await batcher.submit(model, job())
        assert not batcher.stuck
        await asyncio.sleep(0.7)
        return caught.value, json.loads(answer.body)

    ((error, answer), scored) = run(test, answer_seconds=0.2)
    assert (error.status, error.kind) == (503, "timeout")
    assert answer == {"predictions": [1.0]}
    # the answer that came after all was not sent, so it is not logged
    assert sum(rows.rows for rows in scored) == 1
    assert "hangs and is given up" in caplog.text


def test_a_model_that_always_hangs_is_told_as_such(monkeypatch):
    monkeypatch.setattr(batch_requests, "_MAX_STUCK", 1)
    model = Model()

    async def test(batcher):
        for _ in range(2):
            with pytest.raises(RequestError, match="no answer within"):
                await batcher.submit(model, job(WAIT))
        assert batcher.stuck
        with pytest.raises(RequestError, match="predictions hang"):
            batcher.submit(model, job())
        model.let_go.set()
        while batcher.stuck:
            await asyncio.sleep(0.01)
        return await batcher.submit(model, job())

    answer, _ = run(test, answer_seconds=0.1)
    assert json.loads(answer.body) == {"predictions": [1.0]}


def test_a_defect_is_500_and_the_next_request_is_answered(monkeypatch, caplog):
    model = Model()

    async def test(batcher):
        with monkeypatch.context() as patch:
            patch.setattr(batch_requests, "score_batch", lambda served, jobs: 1 / 0)
            with pytest.raises(RequestError) as caught:
                await batcher.submit(model, job())
        await batcher.submit(model, job())
        return caught.value.status

    assert run(test)[0] == 500
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_left_harms_nobody():
    model = Model()

    async def test(batcher):
        first = batcher.submit(model, job(WAIT))
        await wait_for(model.started)
        second, third = batcher.submit(model, job()), batcher.submit(model, job())
        second.cancel()
        model.let_go.set()
        await asyncio.gather(first, third)

    run(test)
    assert model.sizes == [1, 2]
