"""Loads versions and holds the one that serves; a version that fails to load leaves the old one serving."""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from windvane.bundle import open_bundle
from windvane.errors import BundleError, WindvaneError
from windvane.predictor import Predictor, load_predictor
from windvane.scoring.answer_infer import Output, outputs_of
from windvane.scoring.check_golden import check_golden
from windvane.scoring.parse_request import Layout
from windvane.shared_folder import BundleRoot

log = logging.getLogger(__name__)

_MAX_ERROR = 1000


@dataclass(frozen=True)
class Wanted:
    """The version that should serve: what the last row of the ledger, or the command line, says."""

    version: int
    digest: str
    epoch: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The values as `/model` shows them."""
        return {"version": self.version, "digest": self.digest, "epoch": self.epoch}


@dataclass(frozen=True)
class Served:
    """A loaded version. A request keeps the one it began with, so a switch never mixes two.

    Attributes:
        since: When this process began to serve it.
        outputs: The tensors of its answers.
        side_by_side: Whether two threads may predict at once: only where nothing of it is the team's own Python.
    """

    version: int
    digest: str
    predictor: Predictor
    layout: Layout
    since: datetime
    outputs: tuple[Output, ...]
    side_by_side: bool = False

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.predictor.bundle.manifest["model"])

    @property
    def learnt_until(self) -> datetime:
        """The end of the data that it was trained on, or when this process began to serve it if the bundle does not say."""
        created = self.predictor.bundle.manifest.get("created")
        moment = datetime.fromisoformat(created) if created else self.since
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class ServingSlot:
    """The version that serves, the one that should, and why they differ.

    Attributes:
        current: Read once per request; None before the first version.
        epoch: Epoch of the ledger's row that `current` obeys.
        wanted: The version that should serve.
        error: Why `wanted` could not be loaded.
        ledger_error: Why the ledger could not be read; what serves keeps serving.
    """

    def __init__(self) -> None:
        self.current: Served | None = None
        self.epoch: int | None = None
        self.wanted: Wanted | None = None
        self.error: str | None = None
        self.ledger_error: str | None = None
        self._changing = threading.Lock()

    def bring(self, wanted: Wanted, *, bundles: BundleRoot, model: str | None) -> bool:
        """Serve a version; True if it serves afterwards, else `error` says why the one before still does."""
        with self._changing:
            self.wanted = wanted
            current = self.current
            if current is None or (current.version, current.digest) != (wanted.version, wanted.digest):
                try:
                    loaded = load_version(bundles, wanted, model=model)
                # the bundle's own code runs here: whatever it raises must not end what serves
                except Exception as exc:  # noqa: BLE001
                    self.error = _explain(wanted, exc)
                    log.error("%s; version %s keeps serving", self.error, current.version if current else "none")
                    return False
                self.current = loaded
                log.info("%s: version %d (%s) serves", loaded.model, loaded.version, loaded.digest[:12])
            self.epoch = wanted.epoch
            self.error = None
            return True


def load_version(bundles: BundleRoot, wanted: Wanted, *, model: str | None) -> Served:
    """Open and verify a bundle, load its model and let it score the golden rows.

    Raises:
        BundleError: If the bundle is missing or changed, is one of another model, or a golden row gets another prediction.
        WindvaneError: If the model cannot be loaded or cannot predict.
    """
    bundle = open_bundle(bundles, wanted.digest)
    if model is not None and bundle.manifest["model"] != model:
        raise BundleError(f"{bundle.path}: is a bundle of '{bundle.manifest['model']}', allowed is one of '{model}'; choose another digest")
    predictor = load_predictor(bundle)
    golden = check_golden(predictor)
    return Served(
        version=wanted.version,
        digest=wanted.digest,
        predictor=predictor,
        layout=Layout.from_manifest(bundle.manifest),
        since=datetime.now(UTC),
        outputs=outputs_of(predictor.classes, probabilities=golden.probabilities is not None),
        side_by_side=predictor.runtime == "onnx" and bundle.manifest["runtime"].get("features") is not None,
    )


def _explain(wanted: Wanted, error: Exception) -> str:
    # the text of an error that is not ours may quote data
    text = str(error) if isinstance(error, WindvaneError) else f"{type(error).__name__} while loading"
    return f"version {wanted.version} ({wanted.digest[:12]}) cannot serve: {text}"[:_MAX_ERROR]
