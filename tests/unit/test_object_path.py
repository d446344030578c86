"""Places in an object store, on a real S3 API: read, written by several at once, refused, busy, away."""

import base64
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote

import numpy as np
import pytest

from windvane.errors import ConfigError, StorageError
from windvane.lake import Lake
from windvane.object_path import ObjectPath, reason_of, without_secrets
from windvane.plot_evaluation import plot_evaluation
from windvane.settings import load_settings
from windvane.store_files import find_files, local_files, place_of, relative_place, write_bytes

# places


def test_a_uri_is_read_and_names_are_joined():
    place = ObjectPath.of("abfss://container@account.dfs.core.windows.net/a//b/")
    assert (place.store, place.key) == ("abfss://container@account.dfs.core.windows.net", "a/b")
    file = place / "c" / "d.json"
    assert (file.name, file.suffix, str(file.parent), str(file.with_name("e"))) == (
        "d.json", ".json", "abfss://container@account.dfs.core.windows.net/a/b/c",
        "abfss://container@account.dfs.core.windows.net/a/b/c/e",
    )  # fmt: skip
    assert relative_place(file, place) == "c/d.json"
    assert ObjectPath.of("s3://bucket").key == ""


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "s3:///x", "https://user:canary@host/x?sig=canary", "s3://bucket/a/../b"])
def test_what_is_no_place_is_refused_without_its_secrets(uri):
    with pytest.raises(ConfigError) as refused:
        place_of(uri)
    assert "canary" not in str(refused.value)


def test_a_name_that_leads_elsewhere_is_refused(root):
    for name in ("../x", "a/../../x", "."):
        with pytest.raises(ConfigError, match="names without"):
            root / name
    with pytest.raises(ValueError, match="lie"):
        relative_place(ObjectPath.of("s3://other/x"), root)


def test_settings_name_places_of_both_kinds(tmp_path):
    settings = load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_BUNDLES": "gs://b/bundles", "WINDVANE_REPORTS": "s3://b/reports"})
    assert str(settings.bundles / "keys") == "gs://b/bundles/keys"
    assert str(settings.reports / "m" / "x.html") == "s3://b/reports/m/x.html"
    assert settings.staging == tmp_path / "staging"
    assert settings.requests == tmp_path / "requests"
    assert load_settings(settings.as_environment()) == settings
    with pytest.raises(ConfigError, match="s3://, gs://, abfss://"):
        load_settings({"WINDVANE_STAGING": "hdfs://b/x"})


# files


def test_a_file_is_written_read_listed_and_removed(root):
    file = root / "a" / "b.txt"
    assert not file.is_file()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_bytes(file, "ü".encode())
    write_bytes(root / "a" / "deep" / "c.txt", b"c")
    assert file.is_file()
    assert file.read_text() == "ü"
    assert b"".join(file.chunks()) == "ü".encode()
    assert file.modified() > datetime.now(UTC) - timedelta(minutes=5)
    assert find_files(root, "a/*.txt") == [file]
    assert find_files(root, "*/*/c.txt") == [root / "a" / "deep" / "c.txt"]
    assert find_files(root, "none/*") == []
    with pytest.raises(StorageError, match="has 2 bytes, allowed are 1"):
        file.read_bytes(most=1)
    file.unlink()
    file.unlink(missing_ok=True)
    assert [str(place) for place, _ in root.objects()] == [f"{root}/a/deep/c.txt"]


def test_of_sixteen_who_create_a_file_at_once_one_does(root):
    for trial in range(5):
        file = root / f"key-{trial}"
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(lambda n, file=file: file.create(str(n).encode()), range(16)))
        assert sum(made) == 1
        assert file.read_text() == str(made.index(True))


def test_a_file_is_replaced_only_in_the_state_that_was_read(root):
    file = root / "key"
    file.write_bytes(b"1")
    _, mark = file.read_tagged()
    assert file.replace(b"2", mark)
    assert not file.replace(b"3", mark)
    assert file.read_bytes() == b"2"


def test_a_library_that_needs_a_directory_gets_one(root, tmp_path):
    plot_evaluation(root / "plots", task="regression", outcomes=np.arange(9.0), scores=np.arange(9.0), classes=None, importance={"x": 1.0})
    with local_files(root / "plots") as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["importance.png", "predicted_against_actual.png"]
        assert (folder / "importance.png").read_bytes().startswith(b"\x89PNG")
    assert not folder.exists()
    for nothing in (root / "none", tmp_path / "none"):
        with local_files(nothing) as folder:
            assert folder is None


# what goes wrong


def test_a_store_that_is_busy_is_asked_again(s3, root):
    s3.fail("PUT", "file", status=503, times=2)
    s3.fail("GET", "file", status=500, times=2)
    (root / "file").write_bytes(b"x")
    assert (root / "file").read_bytes() == b"x"


@pytest.mark.parametrize("place", ["s3://no-such-bucket/x"])
def test_a_missing_bucket_is_no_missing_file(s3, place):
    for act in (ObjectPath.of(place).read_bytes, lambda: write_bytes(ObjectPath.of(place), b""), lambda: Lake(place).version("m", "raw")):
        with pytest.raises(StorageError, match="NoSuchBucket"):
            act()


def test_a_store_that_is_away_is_named_within_a_minute(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = datetime.now(UTC)
    with pytest.raises(StorageError, match="s3://away-1/x: cannot be read"):
        ObjectPath.of("s3://away-1/x").read_bytes()
    with pytest.raises(StorageError, match="s3://away-2/m/raw: the table cannot be read: Connection refused"):
        Lake("s3://away-2").version("m", "raw")
    assert datetime.now(UTC) - began < timedelta(seconds=60)


def test_an_address_without_encryption_must_be_allowed(s3, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageError, match="cannot be read"):
        ObjectPath.of("s3://plain-bucket/x").read_bytes()


def test_a_reason_has_no_query_and_no_password():
    told = reason_of(OSError("Error performing GET https://a.blob.core.windows.net/c/x?sv=1&sig=canary in 1 ms: strange"))
    assert "canary" not in told
    assert "canary" not in without_secrets("postgresql://user:canary@host/db and s3://b/x?token=canary")


# stores that are not here: what is asked of them


class _Recorder(BaseHTTPRequestHandler):
    """Answers like a store in which everything is there, and names beginning with `taken` were there before."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str, dict[str, str]]]] = []

    def _answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append((self.command, unquote(self.path), asked))
        if_new = asked.get("if-none-match") == "*" or asked.get("x-goog-if-generation-match") == "0"
        refused = if_new and "taken" in self.path
        body = b"hello" if self.command == "GET" else b""
        self.send_response((409 if "x-ms-version" in asked else 412) if refused else 201 if self.command == "PUT" else 200)
        for name, value in (("ETag", '"e1"'), ("x-goog-generation", "7"), ("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = _answer

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("root", "condition", "mark"),
    [
        ("abfss://models@account.dfs.core.windows.net/x", ("if-none-match", "*"), ("if-match", '"e1"')),
        ("gs://models/x", ("x-goog-if-generation-match", "0"), ("x-goog-if-generation-match", "7")),
    ],
    ids=["azure", "google"],
)
def test_azure_and_google_are_asked_for_the_same_conditions(root, condition, mark, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"k" * 32).decode())
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", url)
    account = {"client_email": "a@b", "private_key_id": "1", "private_key": "k", "gcs_base_url": url, "disable_oauth": True}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    place = ObjectPath.of(root)
    _Recorder.seen.clear()
    assert (place / "free").create(b"1")
    assert not (place / "taken").create(b"1")
    content, found = (place / "free").read_tagged()
    assert content == b"hello"
    assert (place / "free").replace(b"2", found)
    asked = [(method, path.rpartition("/")[2]) for method, path, _ in _Recorder.seen]
    assert asked == [("PUT", "free"), ("PUT", "taken"), ("GET", "free"), ("PUT", "free")]
    first, second, _, last = (headers for _, _, headers in _Recorder.seen)
    assert first[condition[0]] == second[condition[0]] == condition[1]
    assert last[mark[0]] == mark[1]
    server.shutdown()
    server.server_close()


def test_without_a_uri_no_client_is_loaded(tmp_path):
    program = (
        "import sys; from pathlib import Path; import windvane.lake, windvane.train_model, windvane.bundle\n"
        "from windvane.store_files import write_bytes; write_bytes(Path('x/y'), b'z')\n"
        "sys.exit('obstore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert (tmp_path / "x" / "y").read_bytes() == b"z"
