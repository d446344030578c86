"""Scores one request with one version: bytes in, the answer's bytes and the rows to log out."""

import json
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from windvane.errors import DataError, ModelCodeError
from windvane.predictor import Predictions
from windvane.scoring.log_requests import ScoredRequest
from windvane.scoring.parse_request import parse_request
from windvane.scoring.request_error import RequestError
from windvane.scoring.serve_version import Served


@dataclass(frozen=True)
class Answer:
    """The JSON of an answer and what is logged about it."""

    body: bytes
    scored: ScoredRequest


def score_request(served: Served, body: bytes, content_type: str | None, *, request_id: str, received: datetime) -> Answer:
    """Parse, predict and encode.

    Raises:
        RequestError: If the request cannot be read (400, 413, 415), or the model has no finite answer to it (422).
    """
    request = parse_request(body, content_type, served.layout)
    try:
        predictions = served.predictor.predict(request.frame)
    except DataError as exc:
        raise RequestError(400, str(exc)) from exc
    except ModelCodeError as exc:
        raise RequestError(
            422, f"the rows have the right form, but the model of version {served.version} cannot score them; its log says why"
        ) from exc
    _refuse_nan(predictions)
    values = predictions.values.tolist()
    probabilities = None if predictions.probabilities is None else predictions.probabilities.tolist()
    answer = {"predictions": values} if probabilities is None else {"predictions": values, "probabilities": probabilities}
    classes = served.predictor.classes
    return Answer(
        body=json.dumps(answer, separators=(",", ":"), allow_nan=False).encode(),
        scored=ScoredRequest(
            request_id=request_id,
            received=received,
            version=served.version,
            digest=served.digest,
            frame=request.frame,
            ids=request.ids,
            times=request.times,
            predictions=values,
            scores=_scores(predictions, classes),
            probabilities=probabilities if classes is not None and len(classes) > 2 else None,
        ),
    )


def _scores(predictions: Predictions, classes: tuple[object, ...] | None) -> list[float] | None:
    if classes is None:
        return [float(value) for value in predictions.values]
    if len(classes) == 2 and predictions.probabilities is not None:
        scores: list[float] = predictions.probabilities[:, 1].tolist()
        return scores
    return None


def _refuse_nan(predictions: Predictions) -> None:
    if predictions.finite():
        return
    numbers = predictions.values if predictions.probabilities is None else predictions.probabilities.sum(axis=1)
    row = int(np.flatnonzero(~np.isfinite(numbers))[0])
    raise RequestError(422, f"row {row}: the model's answer is not a finite number; check the row's values")
