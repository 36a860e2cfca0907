"""Outputs that go to URLs: nothing counts before the manifest, what is sent is what is there, and of two writers one is told."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from support.outputs import hold, output_key, write_part
from support.s3_gate import S3Gate

from confide.canonical import canonical
from confide.crypto.sign import SigningKey
from confide.data import files, folder
from confide.data.manifest import MANIFEST_NAME, verify_manifest
from confide.data.places import RemoteFolder, remote_folder
from confide.data.s3 import S3Access
from confide.data.schema import schema_json
from confide.data.snapshots import load_manifest
from confide.errors import ConfideError, IntegrityError, JobError, JobFailedError, OutputExistsError, UnavailableError
from confide.ids import RunId
from confide.job import Job, OutputSpec
from confide.jobs.outputs import Outputs
from confide.jobs.saves import Save
from confide.jobs.sending import Sending, open_sending
from confide.jobs.staging import staging_path

RUN, SIGNER = RunId("r1"), SigningKey.generate()
SCHEMA = pa.schema([("x", pa.int64())])
SOURCE = {"resource": "kbs://kbs.example:8080/airline/storage/bucket", "spki": "0" * 64}
JOB: dict[str, Any] = {
    "name": "j", "program": "p.py", "files": {"p.py": b""}, "policy": {"name": "p"}, "broker": {"url": "https://b", "spki": "0" * 64},
    "engine": "polars",
}  # fmt: skip


class Driver:
    """A run's output ``here`` in a folder and its output ``there`` at a URL, both committed."""

    def __init__(self, root: Path, there: RemoteFolder) -> None:
        self.places = {"here": root / "here", "there": root / "staging" / "there"}
        self.sending = Sending({"there": there})
        self.outputs = Outputs(self.places, RUN, SIGNER, sending=self.sending)
        self.keys = {name: output_key() for name in self.places}
        for name, key in self.keys.items():
            hold(self.outputs, name, key)
            self._save(name)

    def _save(self, name: str) -> None:
        place, key = Path(self.outputs.stage(name, Save.from_json({"kind": "parquet"}))["path"]), self.keys[name]
        for number in range(3):
            path = place / f"part-{number}.parquet"
            relative = path.relative_to(staging_path(self.places[name], RUN)).as_posix()
            write_part(path, pa.table({"x": [number]}, SCHEMA), key, relative)
            self.outputs.written([str(path)])
        self.outputs.commit(name, "parquet", schema_json(SCHEMA)["spark"])

    def publish(self) -> None:
        try:
            self.outputs.send()
            self.outputs.publish()
        finally:
            self.outputs.close()
            assert not list(self.places["there"].parent.iterdir())
            assert not list(self.places["here"].parent.glob(".*"))

    def rows(self, place: RemoteFolder) -> list[int]:
        manifest = verify_manifest(load_manifest(place).envelope, SIGNER.public)
        folder.verify_files(place, manifest)
        folder.refuse_foreign(place, {entry.path for entry in manifest.files})
        return sorted(files.read_table(place, manifest, self.keys["there"].secret).column("x").to_pylist())


@pytest.fixture
def there(remote_url: str) -> RemoteFolder:
    return remote_folder(remote_url)


def test_an_output_at_a_url_is_published_with_those_in_folders(there: RemoteFolder, tmp_path: Path) -> None:
    driver = Driver(tmp_path, there)
    assert not there.files()
    driver.publish()
    fresh = remote_folder(str(there))
    assert driver.rows(fresh) == [0, 1, 2]
    assert load_manifest(fresh).unverified.run == RUN
    assert load_manifest(driver.places["here"]).unverified.rows == 3


def test_two_runs_at_one_place_share_no_path_and_the_later_is_told(there: RemoteFolder, tmp_path: Path) -> None:
    first, second = (Driver(tmp_path / name, remote_folder(str(there))) for name in ("1", "2"))
    first.publish()
    with pytest.raises(OutputExistsError, match="exists"):
        second.publish()
    assert first.rows(there) == [0, 1, 2]
    assert not second.places["here"].exists()


def test_what_is_there_is_left_alone_and_the_run_does_not_begin(there: RemoteFolder) -> None:
    there.create("mine.txt", b"x")
    with pytest.raises(OutputExistsError) as caught:
        Sending({"there": there}).require_free()
    assert "data clean" in str(caught.value.hint)
    assert list(there.files()) == ["mine.txt"]


def test_a_wrong_byte_at_the_storage_ends_the_run_and_nothing_stays(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    write = type(there).write

    def lying(self: RemoteFolder, path: str, source: BinaryIO) -> None:
        data = bytearray(source.read())
        data[len(data) // 2] ^= 1
        write(self, path, io.BytesIO(bytes(data)))

    monkeypatch.setattr(type(there), "write", lying)
    driver = Driver(tmp_path, there)
    with pytest.raises(IntegrityError, match="other bytes") as caught:
        driver.publish()
    assert "something else than was sent" in str(caught.value.hint)
    assert not remote_folder(str(there)).files()
    assert not driver.places["here"].exists()


def test_a_manifest_that_the_storage_only_says_it_has_ends_the_run(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(there), "create", lambda *_: None)
    driver = Driver(tmp_path, there)
    with pytest.raises(IntegrityError, match="another manifest"):
        driver.publish()
    assert not there.files()
    assert not driver.places["here"].exists()


def test_a_lost_answer_to_the_manifest_is_looked_after(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    create = type(there).create

    def lost(self: RemoteFolder, path: str, data: bytes) -> None:
        create(self, path, data)
        raise UnavailableError("no answer")

    monkeypatch.setattr(type(there), "create", lost)
    driver = Driver(tmp_path, there)
    driver.publish()
    assert driver.rows(remote_folder(str(there))) == [0, 1, 2]


def test_what_fails_after_the_manifest_takes_it_out_of_view(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    driver = Driver(tmp_path, there)

    def failing() -> None:
        assert MANIFEST_NAME in there.files()
        raise UnavailableError("the last step")

    monkeypatch.setattr(driver.outputs, "_commit_further", failing)
    with pytest.raises(UnavailableError):
        driver.publish()
    assert not there.files()
    assert not driver.places["here"].exists()


def test_no_manifest_is_made_if_a_folder_cannot_be_moved_into_view(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    made: list[str] = []
    monkeypatch.setattr(type(there), "create", lambda _self, path, _data: made.append(path))
    driver = Driver(tmp_path, there)
    driver.places["here"].mkdir()
    with pytest.raises(OutputExistsError, match="appeared"):
        driver.publish()
    assert made == []
    assert not there.files()


def test_another_writers_manifest_is_never_removed(there: RemoteFolder, tmp_path: Path, monkeypatch: Any) -> None:
    create = type(there).create

    def beaten(self: RemoteFolder, path: str, data: bytes) -> None:
        create(self, path, canonical({"other": 1}))
        raise UnavailableError("no answer")

    monkeypatch.setattr(type(there), "create", beaten)
    with pytest.raises(UnavailableError):
        Driver(tmp_path, there).publish()
    assert list(there.files()) == [MANIFEST_NAME]


def test_a_run_that_is_ending_sends_nothing_more(there: RemoteFolder, tmp_path: Path) -> None:
    driver = Driver(tmp_path, there)
    driver.sending.stop()
    with pytest.raises(UnavailableError, match="ending"):
        driver.publish()
    assert not there.files()


def test_what_was_sent_is_taken_back_if_the_run_ends_before_it_is_published(there: RemoteFolder, tmp_path: Path) -> None:
    driver = Driver(tmp_path, there)
    driver.outputs.send()
    assert sorted(Path(path).name for path in there.files()) == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    driver.outputs.close()
    assert not there.files()


def test_what_was_not_sent_is_not_published(there: RemoteFolder, tmp_path: Path) -> None:
    driver = Driver(tmp_path, there)
    with pytest.raises(JobFailedError, match="not sent"):
        driver.outputs.publish()
    driver.outputs.close()
    assert not there.files()
    assert not driver.places["here"].exists()


# --- a storage that says no ---------------------------------------------------------------------------------------------


@pytest.fixture
def gate(moto: str, s3: Any) -> Iterator[S3Gate]:
    found = S3Gate(moto)
    yield found
    found.close()


def through(gate: S3Gate) -> RemoteFolder:
    access = canonical({"access_key_id": "id", "secret_access_key": "CANARY-3f", "endpoint": gate.url, "region": "eu-central-1"})
    return remote_folder("s3://bkt/d", S3Access.parse(access))


def test_a_storage_that_refuses_now_and_then_is_asked_again(gate: S3Gate, tmp_path: Path) -> None:
    driver = Driver(tmp_path, through(gate))
    gate.refusals = [(500, "InternalError"), (503, "SlowDown"), (500, "InternalError")]
    driver.publish()
    assert driver.rows(remote_folder("s3://bkt/d")) == [0, 1, 2]


def test_a_storage_that_is_gone_in_the_middle_ends_the_run_with_nothing_visible(gate: S3Gate, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    driver = Driver(tmp_path, through(gate))
    sent = threading.Event()

    def gone(method: str, _path: str) -> None:
        if method == "PUT":
            sent.set()
            gate.always = (500, "InternalError")

    gate.after = gone
    with pytest.raises(UnavailableError, match="S3 refuses") as caught:
        driver.publish()
    assert sent.is_set()
    assert "CANARY" not in str(caught.value.to_json())
    assert MANIFEST_NAME not in remote_folder("s3://bkt/d").files()
    assert not driver.places["here"].exists()


# --- the job ------------------------------------------------------------------------------------------------------------


def test_an_output_on_s3_names_a_credential_and_no_other_does() -> None:
    assert OutputSpec(path="s3://bkt/t", credentials=SOURCE).remote  # type: ignore[arg-type]
    for wrong in ({"path": "s3://bkt/t"}, {"path": "/here", "credentials": SOURCE}, {"path": "S3://bkt/t"}):
        with pytest.raises(ValueError, match="credentials"):
            OutputSpec.model_validate(wrong)


def test_an_output_in_a_folder_is_staged_beside_it_and_nowhere_else() -> None:
    with pytest.raises(ValueError, match="staged beside it"):
        OutputSpec(path="/here", staging="/s")


def test_workers_have_to_share_the_folder_in_which_an_output_is_staged() -> None:
    outputs = {"o": {"path": "memory://x/d"}}
    with pytest.raises(JobError, match="all nodes share"):
        Job.build({**JOB, "engine": "spark", "outputs": outputs})
    spark = Job.build({**JOB, "engine": "spark", "outputs": {"o": {**outputs["o"], "staging": "/mnt/all"}}})
    assert spark.outputs["o"].folder("o") == Path("/mnt/all/confide-output-o")
    assert Job.build({**JOB, "outputs": outputs}).outputs["o"].folder("o") == Path("/tmp/confide-output-o")


def test_where_an_output_goes_is_not_in_the_digest() -> None:
    outputs = [{"path": "memory://x/d"}, {"path": "/here"}, {"path": "s3://b/d", "credentials": SOURCE, "staging": "/mnt"}]
    assert len({Job.build({**JOB, "outputs": {"o": spec}}).digest for spec in outputs}) == 1


def test_a_job_file_gives_an_outputs_credential_and_its_staging_folder(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("")
    text = 'name = "j"\nprogram = "p.py"\n[policy]\nname = "p"\n[broker]\nurl = "https://b"\nspki = "{spki}"\n[outputs.o]\n{rest}'
    rest = f'path = "s3://b/d"\nstaging = "scratch"\ncredentials = "{SOURCE["resource"]}"\ncredentials_spki = "{"0" * 64}"\n'
    (tmp_path / "job.toml").write_text(text.format(spki="0" * 64, rest=rest))
    output = Job.load(tmp_path / "job.toml").outputs["o"]
    assert (output.staging, output.credentials) == (str(tmp_path / "scratch"), OutputSpec(path="s3://b/d", credentials=SOURCE).credentials)  # type: ignore[arg-type]
    (tmp_path / "job.toml").write_text(text.format(spki="0" * 64, rest='path = "x"\nkey = "kbs://h/a/b/c"\n'))
    with pytest.raises(JobError, match="key"):
        Job.load(tmp_path / "job.toml")


@pytest.mark.parametrize("other", ["memory://x/d", "memory://x/d/", "memory://x/d/deeper", "memory://x"])
def test_outputs_at_urls_do_not_lie_in_each_other_nor_in_inputs(other: str) -> None:
    pin = {"dataset": "0" * 32, "signer": "0" * 64}
    for kind, spec in (("outputs", {"path": other}), ("inputs", {"path": other, **pin})):
        given: dict[str, Any] = {"outputs": {"o": {"path": "memory://x/d"}}}
        given.setdefault(kind, {})["p"] = spec
        with pytest.raises(JobError, match="in each other"):
            open_sending(Job.build({**JOB, **given}), None)


def test_a_node_that_cannot_attest_gets_no_credential() -> None:
    job = Job.build({**JOB, "outputs": {"o": {"path": "s3://b/d", "credentials": SOURCE}}})
    with pytest.raises(ConfideError, match="attested nodes only"):
        open_sending(job, None)
