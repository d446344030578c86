"""Scores requests with one version: bytes in, the answers' bytes and the rows to log out.

Requests that wait at the same time are predicted together. Each is read, checked and answered by itself, and when the rows
of all of them cannot be predicted together, each is predicted alone: one bad row fails its own request only.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson

from windvane.errors import DataError, ModelCodeError
from windvane.predictor import Predictions
from windvane.scoring.answer_infer import encode_infer
from windvane.scoring.convert_values import as_array
from windvane.scoring.encode_segment import LoggedRequest, ScoredRows, Values
from windvane.scoring.parse_infer import InferRequest, parse_infer
from windvane.scoring.parse_request import Request, parse_request
from windvane.scoring.request_error import RequestError
from windvane.scoring.serve_version import Served

log = logging.getLogger(__name__)

_MANY_ROWS = 64
_AS_ARRAYS = ("double", "long", "datetime")


class Job(NamedTuple):
    """A request whose body is complete.

    Attributes:
        protocol: `mlflow`, or `infer` for the Open Inference Protocol.
        detail: The header that says how to read the body: Content-Type, or Inference-Header-Content-Length.
        received: When it came, in microseconds since 1970, UTC.
        complete: When the body was complete, as `time.perf_counter`.
    """

    protocol: Literal["mlflow", "infer"]
    body: bytes
    detail: str | None
    request_id: str
    received: int
    complete: float


class Answer(NamedTuple):
    """An answer of status 200; `json_length` is the number of its bytes that are JSON, if binary data follows them."""

    body: bytes
    json_length: int | None = None


class Scored(NamedTuple):
    """An answer or an error for each job, and what is logged of those that have an answer."""

    results: list[Answer | RequestError]
    rows: list[ScoredRows]


class _Ready(NamedTuple):
    place: int
    job: Job
    request: Request
    infer: InferRequest | None


def score_request(served: Served, body: bytes, content_type: str | None, *, request_id: str, received: datetime) -> Answer:
    """Parse, predict and encode one request of MLflow's protocol.

    Raises:
        RequestError: If the request cannot be read (400, 413, 415), or the model has no finite answer to it (422).
    """
    job = Job("mlflow", body, content_type, request_id, round(received.timestamp() * 1e6), time.perf_counter())
    (result,) = score_batch(served, [job]).results
    if isinstance(result, RequestError):
        raise result
    return result


def score_batch(served: Served, jobs: Sequence[Job]) -> Scored:
    """Parse each job, predict the rows of all together, and encode each answer; no error of a job is raised."""
    scored = Scored([RequestError(500, "not scored")] * len(jobs), [])
    ready = []
    for place, job in enumerate(jobs):
        try:
            if job.protocol == "infer":
                infer = parse_infer(job.body, job.detail, served.layout, served.outputs)
                ready.append(_Ready(place, job, infer.request, infer))
            else:
                ready.append(_Ready(place, job, parse_request(job.body, job.detail, served.layout), None))
        except RequestError as exc:
            scored.results[place] = _light(exc)
    if ready:
        _score(served, ready, scored)
    return scored


def _score(served: Served, ready: Sequence[_Ready], scored: Scored) -> None:
    columns = {c.name: _join([one.request.columns[c.name] for one in ready]) for c in served.layout.columns}
    arrays = {c.name: as_array(columns[c.name], c) for c in served.layout.columns}
    # arrays are quicker to log, but the team's own Python may change those that it gets
    kept = {c.name: arrays[c.name] if served.side_by_side else arrays[c.name].copy() for c in served.layout.columns if c.type in _AS_ARRAYS}
    rows = sum(one.request.rows for one in ready)
    try:
        predictions = _predict(served, arrays, rows)
    except RequestError as exc:
        if len(ready) == 1:
            scored.results[ready[0].place] = _light(exc)
            return
        for one in ready:
            _score(served, [one], scored)
        return
    values = predictions.values.tolist()
    # of few rows lists are quicker, of many NumPy's arrays
    probabilities: Any = predictions.probabilities
    if probabilities is not None and (len(ready) > 1 or rows < _MANY_ROWS):
        probabilities = probabilities.tolist()
    logged, start = [], 0
    for one in ready:
        end = start + one.request.rows
        scored.results[one.place] = _encode(served, one, values[start:end], None if probabilities is None else probabilities[start:end])
        milliseconds = (time.perf_counter() - one.job.complete) * 1000
        logged.append(LoggedRequest(one.job.request_id, one.job.received, one.request.rows, milliseconds))
        start = end
    classes = served.predictor.classes
    times: Values = (
        kept[served.layout.time] if served.layout.time in served.layout.datetimes else _join([one.request.times for one in ready])
    )
    scored.rows.append(
        ScoredRows(
            version=served.version,
            digest=served.digest,
            requests=logged,
            columns={c.name: kept.get(c.name, columns[c.name]) for c in served.layout.columns},
            size=sum(len(one.job.body) for one in ready),
            types={c.name: c.type for c in served.layout.columns},
            ids=_join([one.request.ids for one in ready]),
            times=times,
            predictions=values,
            scores=_scores(predictions, classes),
            probabilities=predictions.probabilities if classes is not None and len(classes) > 2 else None,
            arrays=_arrays(predictions, classes),
        )
    )


def _predict(served: Served, columns: Mapping[str, np.ndarray], rows: int) -> Predictions:
    try:
        predictions = served.predictor.predict_columns(columns)
    except DataError as exc:
        raise RequestError(400, str(exc)) from exc
    except ModelCodeError as exc:
        raise RequestError(
            422, f"the rows have the right form, but the model of version {served.version} cannot score them; its log says why"
        ) from exc
    if len(predictions.values) != rows:
        raise RequestError(422, f"the model of version {served.version} gives {len(predictions.values)} answers to {rows} rows")
    if not predictions.finite():
        numbers = predictions.values if predictions.probabilities is None else predictions.probabilities.sum(axis=1)
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise RequestError(422, f"row {row}: the model's answer is not a finite number; check the row's values")
    return predictions


def _encode(served: Served, one: _Ready, values: list[Any], probabilities: Any) -> Answer:
    answer = {"predictions": values} if probabilities is None else {"predictions": values, "probabilities": probabilities}
    if one.infer is None:
        return Answer(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))
    head = {"model_name": served.model, "model_version": str(served.version)}
    if one.infer.id is not None:
        head["id"] = one.infer.id
    return Answer(*encode_infer(one.infer.outputs, answer, served.outputs, head=head))


def _scores(predictions: Predictions, classes: tuple[object, ...] | None) -> list[float] | None:
    if classes is None:
        return [float(value) for value in predictions.values]
    if len(classes) == 2 and predictions.probabilities is not None:
        scores: list[float] = predictions.probabilities[:, 1].tolist()
        return scores
    return None


def _arrays(predictions: Predictions, classes: tuple[object, ...] | None) -> dict[str, np.ndarray]:
    """Copies of the numbers that are logged."""
    values = predictions.values
    found = {"predictions": values.astype({"f": "float64", "i": "int64"}[values.dtype.kind])} if values.dtype.kind in "fi" else {}
    if classes is None and found:
        found["scores"] = found["predictions"].astype("float64", copy=False)
    elif classes is not None and len(classes) == 2 and predictions.probabilities is not None:
        found["scores"] = predictions.probabilities[:, 1].astype("float64")
    return found


def _join(parts: Sequence[list[Any]]) -> list[Any]:
    return parts[0] if len(parts) == 1 else [value for part in parts for value in part]


def _light(error: RequestError) -> RequestError:
    """Without its frames: they hold the request and this error, so that all of it would stay until the next full collection."""
    cause = error.__cause__
    if cause is not None:
        cause.__context__ = cause.__cause__ = cause.__traceback__ = None
    error.__context__ = error.__traceback__ = None
    return error
