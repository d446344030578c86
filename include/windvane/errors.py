"""Every error that Windvane raises on purpose.

A message says where, what, got, allowed and the fix. It never carries data rows or stack traces. `retryable` tells the
operators whether trying again can help: infrastructure may come back, bad data and bad configs do not mend themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class WindvaneError(Exception):
    """The base of all errors of this package."""

    retryable = False


class ConfigError(WindvaneError):
    """A config, suite or model file is wrong; `problems` lists everything found, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ModelCodeError(WindvaneError):
    """The model's Python file is missing, does not import, lacks a function, or one of its functions failed."""


class DataError(WindvaneError):
    """The data itself is bad: empty, a column lost or retyped, a file cut in the middle."""


class NotEnoughData(WindvaneError):
    """There is too little labelled data to train or to judge."""


class ServiceUnavailable(WindvaneError):
    """Something that Windvane needs does not answer: MLflow, Docker, a source, the scoring service."""

    retryable = True


class StorageError(WindvaneError):
    """Bytes could not be stored: a full disk, a missing permission."""

    retryable = True


class BundleError(WindvaneError):
    """A bundle is missing, changed, or holds something that may not be loaded."""


class StaleEpoch(WindvaneError):
    """Somebody else changed what serves in the meantime; this attempt is superseded."""


class RehearsalFailed(WindvaneError):
    """A candidate did not behave in the runtime that would serve it; it never took traffic. `evidence` goes into the ledger."""

    def __init__(self, message: str, *, evidence: Mapping[str, Any] | None = None) -> None:
        self.evidence = dict(evidence or {})
        super().__init__(message)


class RolloutFailed(WindvaneError):
    """A candidate took traffic and was reverted."""
