"""Watches the release ledger and brings the version that should serve into the slot."""

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from windvane.errors import WindvaneError
from windvane.ledger import Ledger
from windvane.scoring.serve_version import ServingSlot, Wanted
from windvane.shared_folder import BundleRoot

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 30.0


class LedgerFollower:
    """Polls the last row of a model in a background thread.

    A ledger that cannot be read, or a row under which nothing serves, changes nothing: the loaded version keeps serving.
    A version that fails to load is tried again, ever more rarely, until the ledger wants another.
    """

    def __init__(self, slot: ServingSlot, *, ledger: Ledger, bundles: BundleRoot, model: str, poll_seconds: float = 0.5) -> None:
        self._slot = slot
        self._ledger = ledger
        self._bundles = bundles
        self._model = model
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._failed: tuple[int, str] | None = None
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger-follower", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; what serves keeps serving."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def poll(self) -> None:
        """Look once."""
        try:
            wanted = self._read()
        except (WindvaneError, SQLAlchemyError, OSError, ValueError, KeyError, TypeError) as exc:
            self._note_ledger_error(exc)
            return
        if self._slot.ledger_error:
            log.info("%s: the release ledger can be read again", self._model)
            self._slot.ledger_error = None
        if wanted is None:
            return
        chosen = (wanted.version, wanted.digest)
        if chosen == self._failed and time.monotonic() < self._retry_at:
            self._slot.wanted = wanted
            return
        if chosen != self._failed:
            self._retry_seconds = _FIRST_RETRY_SECONDS
        if self._slot.bring(wanted, bundles=self._bundles, model=self._model):
            self._failed = None
            return
        self._failed = chosen
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(self._retry_seconds * 2, _MAX_RETRY_SECONDS)

    def _read(self) -> Wanted | None:
        release = self._ledger.last(self._model)
        version = release.serving if release else None
        if release is None or version is None:
            return None
        digest = release.digest if release.version == version else self._ledger.digest_of(self._model, version)
        return Wanted(version=version, digest=digest or "", epoch=release.epoch)

    def _note_ledger_error(self, error: Exception) -> None:
        text = str(error) if isinstance(error, WindvaneError) else f"release ledger of {self._model}: {type(error).__name__}"
        if self._slot.ledger_error != text:
            log.error("%s; what serves keeps serving", text)
        self._slot.ledger_error = text[:1000]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.poll()
            self._stopping.wait(self._poll_seconds)
