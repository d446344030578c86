"""Asks for an API key when the model has any, or when it must have one."""

import hmac
import logging
import time
from pathlib import Path

from windvane.errors import StorageError
from windvane.manage_keys import hash_key, read_keys
from windvane.scoring.request_error import RequestError

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_MAX_LENGTH = 256


class KeyCheck:
    """The keys of one model, read again when their file changes; one that cannot be read lets nobody in but by the keys before.

    Args:
        path: The file of keys.
        required: Let nobody in while the model has no keys.
    """

    def __init__(self, path: Path | None, *, required: bool = False) -> None:
        self._path = path
        self._required = required
        self._hashes: tuple[str, ...] = ()
        self._failing = False
        self._seen: tuple[int, int, int] | None = None
        self._look_at = 0.0

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Let a request pass if the model has no keys, or the request has one of them.

        Args:
            headers: By name, in small letters.

        Raises:
            RequestError: 401.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._read()
        if not self._hashes:
            if self._failing:
                raise RequestError(401, "the keys of this model cannot be read; the service's log says why")
            if self._required:
                raise RequestError(401, "a key is needed and the model has none yet; make one with `windvane key add`")
            return
        given = _given(headers)
        if given is None:
            raise RequestError(401, "a key is needed; send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
        digest = hash_key(given)
        # all are compared, so that the time does not say which one was near
        matches = sum(hmac.compare_digest(digest, known) for known in self._hashes)
        if not matches:
            raise RequestError(401, "the key is not one of this model's; ask who runs it for a new one")

    @property
    def needed(self) -> bool:
        """Whether the model has keys, or must have one."""
        return bool(self._hashes) or self._required

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            seen = None
        except OSError:
            seen = (0, 0, 0)
        if seen == self._seen and not self._failing:
            return
        self._seen = seen
        try:
            self._hashes = tuple(key.sha256 for key in read_keys(self._path))
            self._failing = False
        except StorageError as exc:
            if not self._failing:
                log.error("%s; only keys that were known before are accepted", exc)
            self._failing = True


def _given(headers: dict[bytes, bytes]) -> str | None:
    kind, _, key = headers.get(b"authorization", b"").partition(b" ")
    given = key.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key")
    return given.decode("latin-1") if given and len(given) <= _MAX_LENGTH else None
