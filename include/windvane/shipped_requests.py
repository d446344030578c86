"""Request logs that scorers elsewhere moved into an object store (WINDVANE_REQUESTS), read as if their files were here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from windvane.object_path import ObjectPath


@dataclass(frozen=True)
class ShippedSegment:
    """A segment in an object store; what of `pathlib.Path` its readers use."""

    place: ObjectPath

    def __str__(self) -> str:
        return str(self.place)

    @property
    def name(self) -> str:
        """Name with ending."""
        return self.place.name

    @property
    def stem(self) -> str:
        """Name without ending."""
        return self.name.removesuffix(self.place.suffix)

    def read_bytes(self) -> bytes:
        """The whole segment.

        Raises:
            FileNotFoundError: If it was collected meanwhile.
            StorageError: If the store does not give it.
        """
        return self.place.read_bytes()

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove it from the store."""
        self.place.unlink(missing_ok=missing_ok)

    def with_name(self, name: str) -> "ShippedSegment":
        """The segment beside this one that has this name."""
        return ShippedSegment(self.place.with_name(name))

    def replace(self, target: "ShippedSegment") -> None:
        """Give it another name."""
        target.place.write_bytes(self.read_bytes())
        self.unlink(missing_ok=True)


def list_shipped(model: str, environ: Mapping[str, str] = os.environ) -> list[ShippedSegment]:
    """The segments of a model that are in the store and not collected yet; none where no store is named.

    Raises:
        ConfigError: If WINDVANE_REQUESTS is no place in an object store.
        StorageError: If the store does not answer.
    """
    uri = environ.get("WINDVANE_REQUESTS")
    return [ShippedSegment(place) for place in (ObjectPath.of(uri) / model).glob("*.arrow")] if uri else []
