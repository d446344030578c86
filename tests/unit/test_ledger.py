"""The ledger: a compare-and-set on (model, epoch), a hash chain, and nothing but appends."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from postgres_server import execute
from sqlalchemy.exc import DBAPIError

from windvane.errors import ServiceUnavailable, StaleEpoch, StorageError
from windvane.ledger import Ledger, settled_row

A, B = "a" * 64, "b" * 64
# what one may do who owns the database, and nobody else
DISARM = {
    "sqlite": ("DROP TRIGGER releases_no_update", "DROP TRIGGER releases_no_delete"),
    "postgresql": ("DROP TRIGGER releases_no_change ON releases",),
}


@pytest.fixture
def ledger(database):
    opened = Ledger(database)
    yield opened
    opened.close()


def add(ledger, epoch, action="promote", *, model="churn", version=1, digest=A, traffic=None, **more):
    return ledger.append(
        model, expected_epoch=epoch, action=action, version=version, digest=digest,
        traffic={version: 100} if traffic is None else traffic, actor="test", reason="because", **more,
    )  # fmt: skip


def test_a_model_without_rows_has_no_last_row(ledger):
    assert ledger.last("churn") is None
    assert ledger.models() == []
    assert ledger.verify("churn") == []


def test_a_row_is_read_back_as_it_was_appended(ledger):
    until = datetime(2026, 1, 1, 12, tzinfo=UTC)
    added = add(ledger, 0, "shift", traffic={1: 90, 2: 10}, until=until, evidence={"run": "r1", "auc": 0.7, "bad": float("nan")})

    assert ledger.last("churn") == added
    assert (added.epoch, added.serving, added.until) == (1, 1, until)
    assert added.evidence == {"run": "r1", "auc": 0.7, "bad": "nan"}
    assert added.as_json()["traffic"] == {"1": 90, "2": 10}


def test_models_have_histories_of_their_own(ledger):
    add(ledger, 0)
    add(ledger, 0, model="price", digest=B)
    add(ledger, 1, version=2, digest=B)

    assert ledger.models() == ["churn", "price"]
    assert [row.epoch for row in ledger.history("churn")] == [1, 2]
    assert ledger.digest_of("churn", 1) == A
    assert ledger.digest_of("churn", 2) == B
    assert ledger.digest_of("churn", 3) is None


@pytest.mark.parametrize("expected", [0, 2], ids=["behind", "ahead"])
def test_a_stale_epoch_is_refused_and_names_what_is_there(ledger, expected):
    add(ledger, 0)
    with pytest.raises(StaleEpoch, match=r"expected epoch \d to be the last, found epoch 1 \(promote of version 1 by test\)"):
        add(ledger, expected, version=2)
    assert len(ledger.history("churn")) == 1


def test_of_writers_at_once_exactly_one_wins(database):
    def attempt(version):
        mine = Ledger(database)
        try:
            return add(mine, 0, version=version).version
        except StaleEpoch:
            return None
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as pool:
        winners = [version for version in pool.map(attempt, range(1, 17)) if version]

    ledger = Ledger(database)
    assert [row.version for row in ledger.history("churn")] == winners
    assert len(winners) == 1
    ledger.close()


def _append_many(database, writer, count, results):
    ledger, won = Ledger(database), []
    while len(won) < count:
        last = ledger.last("churn")
        try:
            won.append(add(ledger, last.epoch if last else 0, version=writer).epoch)
        except StaleEpoch:
            continue
    ledger.close()
    results.put((writer, won))


def test_eight_processes_that_create_and_append_at_once_make_one_linear_history(database):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    writers = [spawn.Process(target=_append_many, args=(database, writer, 6, results)) for writer in range(1, 9)]
    for writer in writers:
        writer.start()
    won = dict(results.get(timeout=120) for _ in writers)
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0

    ledger = Ledger(database)
    history = ledger.history("churn")
    assert [row.epoch for row in history] == list(range(1, 49))
    assert {row.epoch: row.version for row in history} == {epoch: writer for writer, epochs in won.items() for epoch in epochs}
    assert ledger.verify("churn") == []
    ledger.close()


def test_a_ledger_of_an_older_release_is_brought_up_to_date_with_its_rows(ledger, database):
    added = [add(ledger, 0), add(ledger, 1, version=2, digest=B)]
    execute(database, "DROP INDEX releases_by_action")
    reopened = Ledger(database)
    assert reopened.history("churn") == added
    assert reopened.verify("churn") == []
    reopened.close()
    # there again: it can be dropped once more, which the database refuses of what is not there
    execute(database, "DROP INDEX releases_by_action")


@pytest.mark.parametrize("traffic", [{1: 90}, {1: 110, 2: -10}], ids=["not 100", "negative"])
def test_traffic_that_is_not_a_whole_is_refused(ledger, traffic):
    with pytest.raises(ValueError, match="traffic"):
        add(ledger, 0, traffic=traffic)


def test_an_unknown_action_is_refused(ledger):
    with pytest.raises(ValueError, match="allowed is shift, promote"):
        add(ledger, 0, "ship")


@pytest.mark.parametrize("statement", ["UPDATE releases SET version = 9", "DELETE FROM releases", "TRUNCATE releases"])
def test_the_database_refuses_to_change_history(ledger, database, statement):
    if statement.startswith("TRUNCATE") and database.startswith("sqlite"):
        pytest.skip("SQLite has no TRUNCATE")
    added = add(ledger, 0)
    with pytest.raises(DBAPIError, match="append-only"):
        execute(database, statement)
    assert ledger.history("churn") == [added]


@pytest.mark.parametrize(
    ("given", "kept"), [("a\0b", "a b"), ("half \ud800", "half ?"), ("x" * 3000, "x" * 2000)], ids=["NUL", "surrogate", "long"]
)
def test_a_reason_that_a_database_refuses_is_mended(ledger, given, kept):
    ledger.append(
        "churn", expected_epoch=0, action="promote", version=1, digest=A, traffic={1: 100}, actor="a\0", reason=given,
        evidence={"text": given},
    )  # fmt: skip
    assert (ledger.last("churn").reason, ledger.last("churn").actor) == (kept, "a ")
    assert ledger.last("churn").evidence == {"text": given}
    assert ledger.verify("churn") == []


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE releases SET version = 9 WHERE epoch = 2", "epoch 2 does not match its hash"),
        ("DELETE FROM releases WHERE epoch = 2", "epoch 2 is missing, found 3"),
        ("UPDATE releases SET previous_hash = 'x' WHERE epoch = 3", "epoch 3 does not continue"),
    ],
    ids=["changed", "removed", "replaced"],
)
def test_tampering_shows(ledger, database, statement, problem):
    for epoch in range(3):
        add(ledger, epoch, version=epoch + 1)
    assert ledger.verify("churn") == []
    execute(database, *DISARM[database.partition("://")[0].partition("+")[0]], statement)

    assert problem in "\n".join(ledger.verify("churn"))


def test_what_is_given_up_returns_to_the_newest_row_that_holds(ledger):
    until = datetime(2999, 1, 1, tzinfo=UTC)
    assert settled_row([]) is None
    add(ledger, 0)
    add(ledger, 1, "shift", version=2, digest=B, traffic={1: 90, 2: 10}, until=until)
    add(ledger, 2, "shift", version=2, digest=B, traffic={1: 50, 2: 50}, until=until)
    assert settled_row(ledger.history("churn")).epoch == 1


def test_what_stands_begins_at_the_newest_row_that_holds(ledger):
    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert ledger.standing("churn") == []
    add(ledger, 0, "shift", until=later)
    assert [row.epoch for row in ledger.standing("churn")] == [1]
    add(ledger, 1)
    add(ledger, 2, "refuse", version=2)
    add(ledger, 3, "shift", version=3, traffic={1: 90, 3: 10}, until=later)
    add(ledger, 4, "shift", version=3, traffic={1: 50, 3: 50}, until=later)
    add(ledger, 0, model="price")
    assert [row.epoch for row in ledger.standing("churn")] == [3, 4, 5]
    assert settled_row(ledger.standing("churn")) == settled_row(ledger.history("churn"))


def test_the_epoch_of_the_last_promotion(ledger):
    assert ledger.promoted("churn") == 0
    add(ledger, 0)
    add(ledger, 1, "rollback")
    add(ledger, 2, "refuse", version=2)
    assert ledger.promoted("churn") == 2


def test_a_freeze_holds_until_it_is_lifted(ledger):
    add(ledger, 0)
    assert not ledger.is_frozen("churn")
    add(ledger, 1, "freeze")
    add(ledger, 2, "refuse", version=2, traffic={1: 100})
    assert ledger.is_frozen("churn")
    add(ledger, 3, "unfreeze")
    assert not ledger.is_frozen("churn")


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="WINDVANE_DB"):
        Ledger(f"sqlite:///{tmp_path / 'file' / 'windvane.db'}")


def test_a_file_that_is_no_database_is_named(tmp_path):
    broken = Path(tmp_path / "windvane.db")
    broken.write_text("not a database, " * 100)
    ledger = Ledger(f"sqlite:///{broken}")
    with pytest.raises(StorageError, match=r"windvane\.db: file is not a database"):
        ledger.last("churn")
    ledger.close()


def test_a_server_that_is_away_is_named_without_its_password():
    ledger = Ledger("postgresql+psycopg://windvane:canary@127.0.0.1:9/windvane?connect_timeout=2")
    with pytest.raises(ServiceUnavailable, match=r"release ledger postgresql.*127\.0\.0\.1:9") as failed:
        ledger.last("churn")
    assert "canary" not in str(failed.value)
    ledger.close()


def test_a_connection_that_the_server_closed_is_made_anew(database):
    if database.startswith("sqlite"):
        pytest.skip("SQLite has no server")
    ledger = Ledger(database)
    add(ledger, 0)
    execute(
        database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert ledger.last("churn").epoch == 1
    add(ledger, 1)
    ledger.close()


def test_rows_that_were_copied_from_another_database_are_the_same_ledger(database, tmp_path):
    before = Ledger(f"sqlite:///{tmp_path / 'before.db'}")
    add(before, 0, evidence={"auc": 0.7, "text": "ü"})
    add(before, 1, "shift", version=2, traffic={1: 90, 2: 10}, until=datetime(2026, 1, 1, tzinfo=UTC))
    after = Ledger(database)
    assert after.models() == []
    with before.connect() as source, after.connect() as target, target.begin():
        target.execute(Ledger.table.insert(), [row._asdict() for row in source.execute(Ledger.table.select())])
    assert after.history("churn") == before.history("churn")
    assert after.verify("churn") == []
    add(after, 2)
    before.close()
    after.close()
