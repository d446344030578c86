"""The error that becomes an answer of another status than 200."""

from windvane.errors import WindvaneError

_KINDS = {
    400: "input",
    401: "key",
    404: "unknown",
    405: "method",
    408: "slow_body",
    413: "too_large",
    415: "media_type",
    422: "model",
    500: "defect",
    503: "overload",
}


class RequestError(WindvaneError):
    """A request cannot be scored.

    Attributes:
        status: The HTTP status that says why.
        close: Whether the connection ends with the answer, because the rest of the body will not be read.
        kind: The same in a word, for the metrics.
    """

    def __init__(self, status: int, message: str, *, close: bool = False, kind: str | None = None) -> None:
        self.status = status
        self.close = close
        self.kind = kind or _KINDS[status]
        super().__init__(message)
