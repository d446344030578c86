"""Says why a table could not be read or written: what an object store answered is left out, since it may repeat a key."""

import contextlib
import errno
from collections.abc import Iterator

from deltalake.exceptions import DeltaError

from windvane.errors import StorageError
from windvane.object_path import reason_of

_NO_SPACE = ("no space left", "os error 28", "disk quota", "storage full")


def unreadable(uri: str, error: BaseException) -> StorageError:
    """What to raise, from None, when a table cannot be read."""
    return StorageError(f"{uri}: the table cannot be read: {storage_reason(uri, error)}")


def storage_reason(uri: str, error: BaseException) -> str:
    """What went wrong, in one line."""
    if _is_remote(uri):
        return f"{reason_of(error)}; check address, credentials and network, see docs/storage.md"
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def named_storage_errors(uri: str, what: str) -> Iterator[None]:
    """Name the table and what was to be written in every error of its storage.

    Raises:
        StorageError: In their place.
    """
    try:
        yield
    except (DeltaError, OSError) as exc:
        full = getattr(exc, "errno", None) == errno.ENOSPC or any(text in str(exc).lower() for text in _NO_SPACE)
        reason = "no space is left; free some and run again" if full else storage_reason(uri, exc)
        raise StorageError(f"{uri}: could not store {what}: {reason}") from (None if _is_remote(uri) else exc)


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file:")
