"""Makes, lists and removes the API keys of a model's scoring service; only their SHA-256 is kept.

`var/keys/<model>/keys.json` holds at most two live keys, so that clients get a new one before the old one is removed. A
service asks for a key as soon as the file holds one, and follows the file within a second. A plain SHA-256 keeps the keys
safe because each is 256 random bits: there is nothing to guess.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from windvane.errors import ConfigError, StorageError
from windvane.settings import Settings
from windvane.store_files import write_bytes

MAX_KEYS = 2
_PREFIX = "wv_"


@dataclass(frozen=True)
class Key:
    """A live key.

    Attributes:
        id: The first digits of the hash, which name the key.
        sha256: The hash of the key, as hexadecimal digits.
        created: When it was made, ISO 8601, UTC.
    """

    id: str
    sha256: str
    created: str


def add_key(settings: Settings, model: str) -> str:
    """Make a key and return it: it is nowhere else, and cannot be shown again.

    Raises:
        ConfigError: If the model has two keys already.
        StorageError: If the file cannot be read or written.
    """
    made = _PREFIX + secrets.token_urlsafe(32)
    digest = hash_key(made)
    with _locked(settings, model) as path:
        keys = read_keys(path)
        if len(keys) >= MAX_KEYS:
            raise ConfigError([f"{path}: {model} has {len(keys)} keys, allowed are {MAX_KEYS}; remove the older one: {keys[0].id}"])
        _write(path, [*keys, Key(id=digest[:8], sha256=digest, created=datetime.now(UTC).isoformat(timespec="seconds"))])
    return made


def list_keys(settings: Settings, model: str) -> list[Key]:
    """The live keys of a model, the older first.

    Raises:
        StorageError: If the file cannot be read.
    """
    return read_keys(keys_path(settings, model))


def remove_key(settings: Settings, model: str, key_id: str) -> None:
    """Remove a key by its id; without a key left, the service is open again.

    Raises:
        ConfigError: If there is no such key.
        StorageError: If the file cannot be read or written.
    """
    with _locked(settings, model) as path:
        keys = read_keys(path)
        left = [key for key in keys if key.id != key_id]
        if len(left) == len(keys):
            known = ", ".join(key.id for key in keys) or "none"
            raise ConfigError([f"{path}: {model} has no key {key_id!r:.80}; it has: {known}"])
        _write(path, left)


def keys_path(settings: Settings, model: str) -> Path:
    """Where the hashes of a model's keys are; the directory is what a container gets, read-only."""
    return settings.var / "keys" / model / "keys.json"


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; none if there is no file.

    Raises:
        StorageError: If it cannot be read or holds something else.
    """
    try:
        return [Key(**key) for key in json.loads(path.read_text())["keys"]]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc.strerror}; mend its permissions") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageError(f"{path}: is not a file of keys; remove it and make new keys") from exc


def hash_key(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


@contextmanager
def _locked(settings: Settings, model: str) -> Iterator[Path]:
    """Hold the model's keys against other writers."""
    path = keys_path(settings, model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a container's user is not this one and may read the hashes; nobody else comes past the directory above
        path.parent.parent.chmod(0o700)
        path.parent.chmod(0o755)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
    except OSError as exc:
        raise StorageError(f"{path}: cannot be written: {exc.strerror}; free space or permissions are needed") from exc


def _write(path: Path, keys: Sequence[Key]) -> None:
    write_bytes(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=1).encode())
    path.chmod(0o644)
