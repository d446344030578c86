"""A place in an object store, used like a `pathlib.Path`: `s3://`, `gs://` and `abfss://` by the client that the lake uses too.

Addresses, keys and tokens come from the environment, under the names of the store (`AWS_...`, `GOOGLE_...`, `AZURE_...`), and
never appear in an error. A process that has used a store must not fork and use one in the child.
"""

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from windvane.errors import ConfigError, StorageError

SCHEMES = ("s3", "gs", "abfss")
# a store that is away is told within a minute; one that is slow but answers may take its time
_CLIENT: dict[str, Any] = {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "15min"}
_RETRY: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=40)}
# the same for delta-rs
STORAGE_OPTIONS = {"connect_timeout": "5s", "timeout": "5min", "max_retries": "6", "retry_timeout": "40s"}
_MAX_REASON = 200
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist")


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or the common beginning of the names of several.

    Attributes:
        store: Scheme and bucket: `s3://bucket`, `abfss://container@account.dfs.core.windows.net`.
        key: The rest, without a slash at either end.
    """

    store: str
    key: str = ""

    @classmethod
    def of(cls, uri: str) -> "ObjectPath":
        """Read a URI.

        Raises:
            ConfigError: If it has another scheme, no bucket, or a part that is `..`.
        """
        found = re.fullmatch(r"(?P<store>(?P<scheme>[a-z0-9]+)://[^/?#]+)(?:/(?P<key>[^?#]*))?", uri)
        if found is None or found["scheme"] not in SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            where = without_secrets(uri)[:_MAX_REASON]
            raise ConfigError([f"{where}: is no place in an object store; allowed are a directory or a URI of {allowed}"])
        return cls(found["store"]) / (found["key"] or "")

    def __truediv__(self, name: str) -> "ObjectPath":
        parts = [part for part in name.split("/") if part]
        if ".." in parts or "." in parts:
            raise ConfigError([f"{self}: got {name!r:.200}, allowed are names without '.' and '..'"])
        return ObjectPath(self.store, "/".join(filter(None, [self.key, *parts])))

    def __str__(self) -> str:
        return f"{self.store}/{self.key}" if self.key else self.store

    @property
    def name(self) -> str:
        """The part behind the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """The place without the last part."""
        return ObjectPath(self.store, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        """The place beside this one that has this name."""
        return self.parent / name

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        """The rest of the way from another place.

        Raises:
            ValueError: If this one does not lie in it.
        """
        if self.store != other.store:
            raise ValueError(f"{self} does not lie in {other}")
        return PurePosixPath(self.key).relative_to(PurePosixPath(other.key))

    def is_file(self) -> bool:
        """Whether the object exists."""
        try:
            self.modified()
        except FileNotFoundError:
            return False
        return True

    def modified(self) -> datetime:
        """When the object was written.

        Raises:
            FileNotFoundError: If there is none.
        """
        moment: datetime = self._do("read", "head")["last_modified"]
        return moment

    def read_bytes(self, *, most: int | None = None) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: If there is none.
            StorageError: If it has more than `most` bytes, or the store does not give it.
        """
        return self.read_tagged(most=most)[0]

    def read_tagged(self, *, most: int | None = None) -> tuple[bytes, Any]:
        """The whole object, and a mark of this state of it for `replace`."""
        found = self._do("read", "get")
        meta = found.meta
        if most is not None and meta["size"] > most:
            raise StorageError(f"{self}: has {meta['size']} bytes, allowed are {most}")
        mark = {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}
        with self._named_errors("read"):
            return bytes(found.bytes()), mark

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put the object in place of what is there; nobody sees a part of it."""
        self._do("written", "put", content)

    def create(self, content: bytes) -> bool:
        """Put the object if there is none; of several who try at once, one gets True."""
        return self._put_if(content, "create")

    def replace(self, content: bytes, mark: Any) -> bool:
        """Put the object if it still is in the state that `read_tagged` marked."""
        return self._put_if(content, mark)

    def upload(self, file: Path) -> None:
        """Put a local file."""
        self._do("written", "put", file)

    def chunks(self) -> Iterator[bytes]:
        """The object in parts of some megabytes.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._named_errors("read"):
            for chunk in self._do("read", "get").stream(min_chunk_size=4_000_000):
                yield bytes(chunk)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._do("removed", "delete")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def objects(self) -> Iterator[tuple["ObjectPath", datetime]]:
        """All objects below this place, and when each was written, in no particular order."""
        import obstore

        with self._named_errors("listed"):
            for page in obstore.list(_store_of(self.store), f"{self.key}/" if self.key else None):
                yield from ((ObjectPath(self.store, entry["path"]), entry["last_modified"]) for entry in page)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """The objects below this place whose names fit; a `*` stands for one part of the name."""
        fixed = [part for part in pattern.split("/")[:-1] if not set(part) & set("*?[")]
        begin = self / "/".join(fixed) if pattern.startswith("/".join(fixed)) else self
        depth = pattern.count("/") + 1
        for found, _ in begin.objects():
            rest = found.relative_to(self)
            if len(rest.parts) == depth and rest.match(pattern):
                yield found

    def _put_if(self, content: bytes, mode: Any) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._do("written", "put", content, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _do(self, what: str, how: str, *arguments: Any, **options: Any) -> Any:
        import obstore

        with self._named_errors(what):
            return getattr(obstore, how)(_store_of(self.store), self.key, *arguments, **options)

    def _named_errors(self, what: str) -> "_NamedErrors":
        return _NamedErrors(self, what)


class _NamedErrors:
    """Turns what the client raises into errors that name the place and no secret."""

    def __init__(self, place: ObjectPath, what: str) -> None:
        self._place, self._what = place, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        if isinstance(error, FileNotFoundError) and self._what in ("read", "removed") and not _NO_BUCKET.search(str(error)):
            raise FileNotFoundError(2, "there is no such object", str(self._place)) from None
        if isinstance(error, AlreadyExistsError | PreconditionError) or not isinstance(error, BaseError | OSError | ValueError):
            return
        # without a cause: its text holds the whole answer, in which a store may repeat a key
        raise StorageError(
            f"{self._place}: cannot be {self._what}: {reason_of(error)}; check address, credentials and network, see docs/storage.md"
        ) from None


def reason_of(error: BaseException) -> str:
    """What went wrong in an object store, in one line without URLs' queries and answers' bodies, which may hold secrets."""
    # both clients, this one and that of the lake, write chains of causes, each in its own form
    text = re.sub("\x1b\\[[0-9;]*m|↳", "", str(error))
    status = re.search(r"\b([45]\d\d [A-Z][A-Za-z ]*[a-z])\s*(?:[:<\n]|$)", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    if status or code:
        return " ".join(filter(None, [status and status[1], code and f"({code[1]})"]))
    known = re.search("(?i)connection refused|dns error|timed out|certificate[^\\n]{0,80}|BadScheme", text)
    if known:
        return {"BadScheme": "the address begins with http://, which needs AWS_ALLOW_HTTP=true"}.get(known[0], known[0])
    return without_secrets((text.strip().splitlines() or [type(error).__name__])[0])[:_MAX_REASON]


def without_secrets(text: str) -> str:
    """A text whose URLs have lost user, password and query."""
    return re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1", re.sub(r"(\w://[^\s?]*)\?[^\s)\"']*", r"\1", text))


@functools.lru_cache(maxsize=16)
def _store_of(root: str) -> Any:
    from obstore.store import from_url

    # with options of its own the client does not read this one from the environment
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    options: Any = {**_CLIENT, **({"allow_http": True} if plain else {})}
    try:
        return from_url(root, client_options=options, retry_config=_RETRY)
    # what a wrong setting raises differs from store to store
    except Exception as exc:  # noqa: BLE001
        raise ConfigError([f"{root}: the object store cannot be used: {reason_of(exc)}; see docs/storage.md"]) from None
