"""The error that becomes a 4xx answer."""

from windvane.errors import WindvaneError


class RequestError(WindvaneError):
    """A request cannot be scored.

    Attributes:
        status: The HTTP status that says why.
        close: Whether the connection ends with the answer, because the rest of the body will not be read.
    """

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        self.status = status
        self.close = close
        super().__init__(message)
