"""Datasets that lie on S3, as moto has it over HTTP, and at URLs of fsspec: made, read, and what a hostile storage can do to them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from confide.canonical import canonical
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import s3, table_files
from confide.data.commit import create_dataset
from confide.data.decrypting import decrypt, write_stream
from confide.data.files import head_rows, open_file, read_table
from confide.data.folder import data_files, refuse_foreign, verify_files
from confide.data.manifest import MANIFEST_NAME
from confide.data.outside import look
from confide.data.pinned_tail import PinnedTail
from confide.data.places import RemoteFile, RemoteFolder, remote_folder
from confide.data.snapshots import SignedManifest, load_manifest, verify_manifests
from confide.data.sources import Source
from confide.errors import (
    CredentialError,
    DataError,
    IntegrityError,
    ManifestError,
    OutputExistsError,
    PlaintextError,
    UnavailableError,
    UsageError,
)
from confide.ids import new_dataset_id

SIGNER, KEY = SigningKey.generate(), SecretBytes(b"d" * 32)
TABLE = pa.table({"id": range(1000), "word": [f"CANARY-{n}" for n in range(1000)]})


def make(source: Any, folder: RemoteFolder) -> SignedManifest:
    dataset = new_dataset_id()
    wrapped = wrap(SecretBytes.random(), KEY, key="ann/k", version=1, dataset=dataset)
    return create_dataset(
        source, folder, name="d", owner="ann", dataset=dataset, dataset_key=KEY, wrapped=wrapped, signer=SIGNER, now=datetime.now(UTC)
    )


@pytest.fixture
def place(remote_url: str) -> RemoteFolder:
    return remote_folder(remote_url)


@pytest.fixture
def on_s3(s3: Any) -> RemoteFolder:
    return remote_folder("s3://bkt/d")


def rewritten(client: Any, key: str, data: bytes) -> None:
    client.put_object(Bucket="bkt", Key=key, Body=data)


def body(client: Any, key: str) -> bytes:
    found: bytes = client.get_object(Bucket="bkt", Key=key)["Body"].read()
    return found


def test_a_table_is_made_and_read_back(place: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 300)
    made = make(TABLE, place)
    found = load_manifest(remote_folder(str(place)))
    assert (found.digest, len(found.unverified.files)) == (made.digest, 4)
    verify_manifests(found)
    verify_files(found.folder, found.unverified)
    refuse_foreign(found.folder, {file.path for file in found.unverified.files})
    assert read_table(found.folder, found.unverified, KEY) == TABLE
    assert head_rows(found.folder, found.unverified, KEY, 301).to_pylist() == TABLE.slice(0, 301).to_pylist()
    decrypt(found.folder, found.unverified, KEY, tmp_path / "back.csv")
    assert (tmp_path / "back.csv").read_text(encoding="utf-8").count("CANARY") == 1000
    seen = look(found, found.unverified)
    assert (seen.unlisted, len(seen.files)) == (0, 4)
    if str(place).startswith("s3"):
        assert all(file.written is not None for file in seen.files)


def test_files_are_made_and_read_back(place: RemoteFolder) -> None:
    contents = {"a.txt": b"CANARY one", "deep/b.bin": bytes(300_000)}
    made = make([Source(name, lambda data=data: io.BytesIO(data), len(data)) for name, data in contents.items()], place)
    verify_files(place, made.unverified)
    for file in made.unverified.files:
        with open_file(place, made.unverified, file.path, KEY) as stream:
            assert stream.read() == contents[file.path.split("/", 1)[1]]
    with pytest.raises(UsageError, match="2 files"):
        write_stream(place, made.unverified, KEY, io.BytesIO())


def test_nothing_in_the_clear_is_sent_and_nothing_is_left_here(on_s3: RemoteFolder, s3: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make(TABLE, on_s3)
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="bkt")["Contents"]]
    assert len(keys) == 2
    assert not any(b"CANARY" in body(s3, key) for key in keys)
    assert list(tmp_path.iterdir()) == []


def test_long_files_go_in_parts_and_a_failure_leaves_none(on_s3: RemoteFolder, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.data.s3.BLOCK", 5 << 20)
    data = bytes(range(256)) * (12 << 12)
    on_s3.write("long", io.BytesIO(data))
    assert body(s3, "d/long") == data
    assert s3.head_object(Bucket="bkt", Key="d/long")["ETag"].endswith('-3"')

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 6 << 20:
                raise OSError("a disk")
            return super().read(size)

    with pytest.raises(OSError, match="a disk"):
        on_s3.write("broken", Broken(data))
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")
    assert list(on_s3.files()) == ["long"]


def test_of_two_writers_one_wins_and_the_other_leaves_nothing(place: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    create, first = type(place).create, list[SignedManifest]()

    def beaten(self: RemoteFolder, path: str, data: bytes) -> None:
        if self is place:
            monkeypatch.setattr("confide.data.commit.refuse_existing", lambda *_, **__: None)  # both had looked before
            first.append(make(TABLE, remote_folder(str(place))))
        create(self, path, data)

    monkeypatch.setattr(type(place), "create", beaten)
    with pytest.raises(OutputExistsError, match="exists"):
        make(TABLE.slice(0, 10), place)
    found = load_manifest(remote_folder(str(place)))
    assert found.digest == first[-1].digest
    assert data_files(remote_folder(str(place))) == [file.path for file in found.unverified.files]


def test_a_repeated_request_is_no_second_writer(on_s3: RemoteFolder) -> None:
    on_s3.create("m", b"one")
    on_s3.create("m", b"one")
    with pytest.raises(OutputExistsError):
        on_s3.create("m", b"two")


def test_a_place_with_anything_in_it_is_refused(place: RemoteFolder) -> None:
    place.create("foreign", b"x")
    with pytest.raises(OutputExistsError):
        make(TABLE, place)
    assert list(place.files()) == ["foreign"]


def test_a_writer_that_fails_removes_what_it_sent(on_s3: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 100)
    sent: list[str] = []

    def limited(path: str, source: Any) -> None:
        if len(sent) == 3:
            raise UnavailableError("S3 refuses")
        sent.append(path)
        type(on_s3).write(on_s3, path, source)

    monkeypatch.setattr(on_s3, "write", limited)
    with pytest.raises(UnavailableError, match="S3 refuses"):
        make(TABLE, on_s3)
    assert len(sent) == 3
    assert not on_s3.files()


@pytest.mark.parametrize("gone", [True, False])
def test_in_doubt_about_the_manifest_files_stay(gone: bool, on_s3: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is there is looked at, if the storage answers at all."""
    create, look_at = type(on_s3).create, type(on_s3).look

    def unanswered(path: str, data: bytes) -> None:
        create(on_s3, path, data)
        monkeypatch.setattr(on_s3, "look", unavailable if gone else lambda path: look_at(on_s3, path))
        raise UnavailableError("S3 does not answer")

    def unavailable(_: str) -> None:
        raise UnavailableError("S3 does not answer")

    monkeypatch.setattr(on_s3, "create", unanswered)
    if gone:
        with pytest.raises(UnavailableError) as caught:
            make(TABLE, on_s3)
        assert "inspect" in (caught.value.hint or "")
    else:
        make(TABLE, on_s3)
    found = load_manifest(remote_folder("s3://bkt/d"))
    verify_files(found.folder, found.unverified)


# --- a storage that lies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [10, -200, -3])
def test_any_changed_byte_is_refused(on_s3: RemoteFolder, s3: Any, at: int) -> None:
    made = make(TABLE, on_s3)
    path = made.unverified.files[0].path
    data = bytearray(body(s3, f"d/{path}"))
    data[at] ^= 1
    rewritten(s3, f"d/{path}", bytes(data))
    fresh = remote_folder("s3://bkt/d")
    with pytest.raises(IntegrityError, match="other bytes"):
        verify_files(fresh, made.unverified)
    with pytest.raises((IntegrityError, PlaintextError)):
        read_table(fresh, made.unverified, KEY)


def test_a_missing_a_longer_and_a_foreign_file_are_refused(on_s3: RemoteFolder, s3: Any) -> None:
    made = make(TABLE, on_s3)
    path = made.unverified.files[0].path
    data = body(s3, f"d/{path}")
    rewritten(s3, "d/foreign", b"x")
    with pytest.raises(ManifestError, match="not in the manifest"):
        refuse_foreign(remote_folder("s3://bkt/d"), {path})
    rewritten(s3, f"d/{path}", data + b"x")
    with pytest.raises(IntegrityError, match="another length"):
        verify_files(remote_folder("s3://bkt/d"), made.unverified)
    s3.delete_object(Bucket="bkt", Key=f"d/{path}")
    for read in (verify_files, lambda folder, manifest: read_table(folder, manifest, KEY)):
        with pytest.raises(IntegrityError, match="missing"):
            read(remote_folder("s3://bkt/d"), made.unverified)


def test_a_plain_file_in_an_encrypted_ones_place_is_refused(on_s3: RemoteFolder, s3: Any) -> None:
    made = make(TABLE, on_s3)
    plain = io.BytesIO()
    pa.parquet.write_table(TABLE, plain)
    rewritten(s3, f"d/{made.unverified.files[0].path}", plain.getvalue())
    with pytest.raises(PlaintextError):
        read_table(remote_folder("s3://bkt/d"), made.unverified, KEY)


def test_what_was_checked_is_what_is_read(on_s3: RemoteFolder, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that shows another file after the first look, and says that it is the same version."""
    made = make(TABLE, on_s3)
    path = made.unverified.files[0].path
    honest = body(s3, f"d/{path}")
    checked = PinnedTail((on_s3 / path).open(), path)
    forged = forgery(len(honest))
    monkeypatch.setattr("confide.data.s3.S3Object._range", lambda _, start, length: forged[start : start + length])
    footer = 8 + int.from_bytes(honest[-8:-4], "little")
    checked.seek(-footer - 100, 2)
    assert checked.read() == forged[-footer - 100 : -footer] + honest[-footer:]
    with pytest.raises(IntegrityError):
        read_table(_unchecked(path, checked), made.unverified, KEY)
    with pytest.raises(PlaintextError):
        read_table(on_s3, made.unverified, KEY)


def _unchecked(path: str, file: PinnedTail) -> Any:
    """A folder whose file of that path has been looked at already."""

    class Folder:
        def __truediv__(self, asked: str) -> Any:
            assert asked == path
            return RemoteFile(self, path)  # type: ignore[arg-type]

        def version(self, _: str) -> bool:
            return True

        def reader(self, *_: object) -> PinnedTail:
            file.seek(0)
            return file

    return Folder()


def forgery(length: int) -> bytes:
    """A plain Parquet file of that length with the table's columns and number of rows."""
    plain = io.BytesIO()
    rows = pa.table({"id": pa.array([0] * 1000, pa.int64()), "word": ["forged"] * 1000})
    pa.parquet.write_table(rows, plain, store_schema=False)
    data = plain.getvalue()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    return data[: -len(footer)].ljust(length - len(footer), b"\0") + footer


def test_a_manifest_that_was_changed_or_is_of_another_key_is_refused(on_s3: RemoteFolder, s3: Any) -> None:
    made = make(TABLE, on_s3)
    envelope = dict(made.envelope)
    envelope["signatures"] = [{**envelope["signatures"][0], "sig": "AAAA"}]
    rewritten(s3, f"d/{MANIFEST_NAME}", canonical(envelope))
    with pytest.raises(ManifestError):
        verify_manifests(load_manifest(remote_folder("s3://bkt/d")))
    rewritten(s3, f"d/{MANIFEST_NAME}", b"{}")
    with pytest.raises(ManifestError, match="not a signed manifest"):
        load_manifest(remote_folder("s3://bkt/d"))
    s3.delete_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}")
    with pytest.raises(ManifestError, match="no manifest"):
        load_manifest(remote_folder("s3://bkt/d"))


def test_a_file_that_is_replaced_between_check_and_use_is_refused(on_s3: RemoteFolder, s3: Any) -> None:
    made = make(TABLE, on_s3)
    path = made.unverified.files[0].path
    verify_files(on_s3, made.unverified)
    rewritten(s3, f"d/{path}", body(s3, f"d/{path}")[::-1])
    with pytest.raises(DataError, match="changed while it was read"):
        read_table(on_s3, made.unverified, KEY)


# --- addresses and credentials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s3://bkt", "s3://bkt/", "s3:///d", "s3://id:secret@bkt/d", "sftp://me:secret@host/d"])
def test_urls_that_name_no_folder_or_a_password_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        remote_folder(url)
    assert "secret" not in str(caught.value.to_json())


@pytest.mark.parametrize("url", ["http://host/d", "simplecache::s3://bkt/d"])
def test_urls_in_the_clear_and_copies_here_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        remote_folder(url)


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(UnavailableError, match="unheardof"):
        remote_folder("unheardof://host/d")


GOOD = {"access_key_id": "id", "secret_access_key": "CANARY", "region": "eu-central-1"}


@pytest.mark.parametrize("change", [{"more": "x"}, {"secret_access_key": ""}, {"endpoint": 1}, {"access_key_id": None}])
def test_a_credential_that_is_none_is_refused_without_a_word_of_it(change: dict[str, Any]) -> None:
    with pytest.raises(CredentialError) as caught:
        s3.S3Access.parse(canonical({**GOOD, **change}))
    assert "CANARY" not in str(caught.value.to_json())


def test_a_credential_does_not_show_its_secret() -> None:
    assert "CANARY" not in repr(s3.S3Access.parse(canonical(GOOD)))


def test_a_given_credential_is_not_sent_in_the_clear_or_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="in the clear"):
        s3.s3_client(s3.S3Access.parse(canonical({**GOOD, "endpoint": "http://storage.example"})))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    assert "amazonaws.com" in s3.s3_client(s3.S3Access.parse(canonical(GOOD))).meta.endpoint_url


def test_a_redirect_to_another_host_is_not_followed_with_a_credential() -> None:
    """S3 tells a client that a bucket is in another region, and botocore goes there: a storage could name any."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(301)
            self.send_header("x-amz-bucket-region", "us-west-2")
            self.send_header("Location", f"http://localhost:{server.server_port}/there")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    access = s3.S3Access.parse(canonical({**GOOD, "endpoint": f"http://127.0.0.1:{server.server_port}"}))
    with pytest.raises(UnavailableError):
        remote_folder("s3://bkt/d", access).look("x")
    assert asked
    assert not any("there" in path for path in asked)
    client = s3.s3_client(access)
    client.meta.events.register_first("before-send.s3", lambda request, **_: setattr(request, "url", "http://localhost:1/bkt/x"))
    with pytest.raises(CredentialError, match="another host"):
        client.head_object(Bucket="bkt", Key="x")
    server.shutdown()
    server.server_close()


def test_throttled_writes_are_repeated(s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    answers, written = [503, 503, 200], list[bytes]()

    class Busy(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            data, status = self.rfile.read(int(self.headers["Content-Length"])), answers.pop(0)
            said = b"<Error><Code>SlowDown</Code></Error>" if status != 200 else b""
            if status == 200:
                written.append(data)
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    remote_folder("s3://bkt/d").write("x", io.BytesIO(b"content"))
    assert len(written) == 1
    assert b"content" in written[0]
    assert not answers
    server.shutdown()
    server.server_close()
