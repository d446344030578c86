"""Keys are shown once, kept as hashes, and there are never more than two."""

import hashlib
import json
import stat

import pytest

from windvane.errors import ConfigError, StorageError
from windvane.manage_keys import add_key, keys_path, list_keys, remove_key
from windvane.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path)})


def test_a_key_is_kept_as_its_hash_only(settings):
    key = add_key(settings, "tiny")
    path = keys_path(settings, "tiny")

    assert len(key) >= 43
    assert key not in path.read_text()
    assert [found.sha256 for found in list_keys(settings, "tiny")] == [hashlib.sha256(key.encode()).hexdigest()]
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_keys_are_rotated_and_a_third_is_refused(settings):
    keys = [add_key(settings, "tiny") for _ in range(2)]
    first, second = list_keys(settings, "tiny")
    with pytest.raises(ConfigError, match=f"allowed are 2; remove the older one: {first.id}"):
        add_key(settings, "tiny")

    remove_key(settings, "tiny", first.id)

    assert list_keys(settings, "tiny") == [second]
    assert add_key(settings, "tiny") not in keys
    assert list_keys(settings, "other") == []


def test_a_key_that_is_not_there_is_named_with_those_that_are(settings):
    add_key(settings, "tiny")
    (known,) = list_keys(settings, "tiny")
    with pytest.raises(ConfigError, match=f"has no key 'abc'; it has: {known.id}"):
        remove_key(settings, "tiny", "abc")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [1]}', json.dumps({"keys": [{"id": "a"}]})])
def test_a_damaged_file_is_an_error(settings, text):
    path = keys_path(settings, "tiny")
    path.parent.mkdir(parents=True)
    path.write_text(text)

    with pytest.raises(StorageError, match="is not a file of keys"):
        list_keys(settings, "tiny")
    with pytest.raises(StorageError, match="is not a file of keys"):
        add_key(settings, "tiny")
