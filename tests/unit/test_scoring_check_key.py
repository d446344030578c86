"""A model with keys answers those who have one, and nobody else."""

import pytest

from windvane.manage_keys import add_key, keys_path, list_keys, remove_key
from windvane.scoring import check_key
from windvane.scoring.check_key import KeyCheck
from windvane.scoring.request_error import RequestError
from windvane.settings import load_settings


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(check_key.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path)})


def passes(check, headers=None):
    try:
        check.check(headers or {})
    except RequestError as exc:
        return exc.status != 401
    return True


def bearer(key):
    return {b"authorization": f"Bearer {key}".encode()}


def test_without_keys_everybody_passes(settings):
    assert passes(KeyCheck(keys_path(settings, "tiny")))
    assert passes(KeyCheck(None))


def test_where_keys_are_required_nobody_passes_before_there_is_one(settings, now):
    check = KeyCheck(keys_path(settings, "tiny"), required=True)
    assert check.needed
    assert not passes(check)
    assert not passes(check, bearer("wv_guess"))
    key = add_key(settings, "tiny")

    now[0] += 1
    assert passes(check, bearer(key))
    remove_key(settings, "tiny", list_keys(settings, "tiny")[0].id)
    now[0] += 1
    assert not passes(check, bearer(key))


def test_both_headers_and_both_keys_pass_and_nothing_else(settings):
    old, new = add_key(settings, "tiny"), add_key(settings, "tiny")
    check = KeyCheck(keys_path(settings, "tiny"))

    assert all(passes(check, headers) for headers in (bearer(old), bearer(new), {b"x-api-key": new.encode()}))
    assert passes(check, {b"authorization": f"bearer {old}".encode()})
    wrong = [{}, bearer(""), bearer(old[:-1]), bearer(old + "x"), {b"authorization": b"Basic " + old.encode()}, {b"x-api-key": b"\xff"}]
    assert not any(passes(check, headers) for headers in wrong)
    assert not passes(check, {b"x-api-key": b"x" * 100_000})


def test_a_removed_key_is_refused_within_a_second(settings, now):
    old, new = add_key(settings, "tiny"), add_key(settings, "tiny")
    check = KeyCheck(keys_path(settings, "tiny"))
    assert passes(check, bearer(old))
    remove_key(settings, "tiny", list_keys(settings, "tiny")[0].id)

    now[0] += 1
    assert not passes(check, bearer(old))
    assert passes(check, bearer(new))


def test_the_first_key_closes_the_service(settings, now):
    check = KeyCheck(keys_path(settings, "tiny"))
    assert passes(check)
    key = add_key(settings, "tiny")

    now[0] += 1
    assert not passes(check)
    assert passes(check, bearer(key))
    assert check.needed


def test_a_file_that_cannot_be_read_lets_in_only_who_was_known(settings, now):
    key = add_key(settings, "tiny")
    path = keys_path(settings, "tiny")
    known, fresh = KeyCheck(path), KeyCheck(path)
    assert passes(known, bearer(key))
    path.write_text("damaged")

    now[0] += 1
    assert passes(known, bearer(key))
    assert not passes(known)
    assert not passes(fresh, bearer(key))
    path.write_text('{"keys": []}')
    now[0] += 1
    assert passes(fresh)
