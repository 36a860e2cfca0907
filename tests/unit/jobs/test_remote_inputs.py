"""Inputs on S3: the agent fetches ranges with a credential that an attested node was given, and the program gets what opens."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from support.polars_agent import PolarsAgent

from confide.data import table_files
from confide.data.agent_files import AgentFolder
from confide.data.places import RemoteFolder, remote_folder
from confide.data.sources import Source
from confide.errors import ConfideError, DataError, IntegrityError, JobError, PlaintextError, ProtocolError
from confide.job import InputSpec, Job
from confide.jobs.storage import place_of

TABLE = pa.table({"id": range(5000), "word": [f"w{n % 7}" for n in range(5000)]})
LINES = b"".join(b"%d,x\n" % n for n in range(100_000))
SOURCE = {"resource": "kbs://kbs.example:8080/airline/storage/bucket", "spki": "0" * 64}


@pytest.fixture
def agent(tmp_path: Path, s3: Any) -> Iterator[PolarsAgent]:
    found = PolarsAgent(tmp_path)
    yield found
    found.close()


def ranges(agent: PolarsAgent) -> list[int]:
    return [request["length"] for name, request in agent.asked if name == "input-range"]


def test_a_table_on_s3_is_queried_by_ranges(agent: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 2000)
    agent.add("t", TABLE, remote_folder("s3://bkt/t"))
    frame = agent.context().read("t")
    found = frame.filter(pl.col("id") > 4500).select(pl.col("id").sum()).collect().item()
    assert found == sum(range(4501, 5000))
    assert sum(ranges(agent)) < sum(file.size for file in agent._inputs["t"].manifest.files)
    assert agent.context().read("t").sort("id").collect().to_arrow().num_rows == 5000


def test_files_on_s3_are_opened_and_parsed(agent: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.data.agent_files.MOST", 100_000)
    agent.add("f", [Source("a.csv", lambda: io.BytesIO(LINES), len(LINES))], remote_folder("s3://bkt/f"))
    context = agent.context()
    (path,) = context.files("f")
    with context.open("f", path) as file:
        assert file.read() == LINES
    assert context.read("f", "csv", has_header=False).collect().height == 100_000
    assert max(ranges(agent)) <= 100_000


@pytest.mark.parametrize("change", ["flip", "cut", "plain", "gone"])
def test_what_a_storage_changes_is_refused(agent: PolarsAgent, s3: Any, change: str) -> None:
    agent.add("t", TABLE, remote_folder("s3://bkt/t"))
    path = agent._inputs["t"].manifest.files[0].path
    key = f"t/{path}"
    data = bytearray(s3.get_object(Bucket="bkt", Key=key)["Body"].read())
    if change == "flip":
        data[100] ^= 1
    elif change == "cut":
        del data[100]
    elif change == "plain":
        plain = io.BytesIO()
        pa.parquet.write_table(TABLE.slice(0, 10), plain)
        body = plain.getvalue()
        data[:] = body[:4].ljust(len(data) - len(body) + 4, b"\0") + body[4:]
    if change == "gone":
        s3.delete_object(Bucket="bkt", Key=key)
    else:
        s3.put_object(Bucket="bkt", Key=key, Body=bytes(data))
    with pytest.raises((IntegrityError, PlaintextError, pl.exceptions.ComputeError)) as caught:
        agent.context().read("t").collect()
    expected = {"flip": "does not open", "cut": "another length", "plain": "not an encrypted", "gone": "missing"}
    assert expected[change] in str(caught.value)


def test_a_file_that_is_replaced_while_it_is_queried_is_refused(agent: PolarsAgent, s3: Any) -> None:
    agent.add("t", TABLE, remote_folder("s3://bkt/t"))
    frame = agent.context().read("t")
    key = f"t/{agent._inputs['t'].manifest.files[0].path}"
    s3.put_object(Bucket="bkt", Key=key, Body=s3.get_object(Bucket="bkt", Key=key)["Body"].read()[::-1])
    with pytest.raises((DataError, pl.exceptions.ComputeError), match="changed while it was read"):
        frame.collect()


@pytest.mark.parametrize(
    "asked",
    [
        {"path": "/elsewhere/{file}"},
        {"path": "{file}"},
        {"path": "{root}/_confide.json"},
        {"path": "{root}/../t/x"},
        {"path": "{root}"},
        {"start": -1},
        {"length": 0},
        {"length": 1 << 30},
        {"start": 1 << 40},
        {"path": "{local}"},
    ],
)
def test_the_agent_gives_ranges_of_listed_files_only(agent: PolarsAgent, asked: dict[str, Any]) -> None:
    agent.add("t", TABLE, remote_folder("s3://bkt/t"))
    agent.add("local", TABLE)
    found, local = agent._inputs["t"], agent._inputs["local"]
    names = {"file": found.manifest.files[0].path, "root": found.root, "local": f"{local.root}/{local.manifest.files[0].path}"}
    call, path = agent._client.call, "{root}/{file}".format(**names)
    assert len(call("input-range", path=path, start=0, length=100)["data"]) == 136
    if "path" in asked:
        asked = {"path": asked["path"].format(**names)}
    with pytest.raises(ProtocolError):
        call("input-range", **{"path": path, "start": 0, "length": 10, **asked})


def test_a_short_answer_of_an_agent_is_refused() -> None:
    class Short:
        def call(self, *_: object, **__: object) -> dict[str, str]:
            return {"data": "AAAA"}

    folder = AgentFolder(Short(), "/confide-remote/x", {"f": 100})  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="another length"):
        (folder / "f").open().read(50)


# --- jobs -----------------------------------------------------------------------------------------------------------------


def test_an_input_on_s3_names_a_credential_and_no_other_does() -> None:
    assert InputSpec(path="s3://bkt/t", credentials=SOURCE).credentials  # type: ignore[arg-type]
    for wrong in ({"path": "s3://bkt/t"}, {"path": "/here", "credentials": SOURCE}, {"path": "S3://bkt/t"}):
        with pytest.raises(ValueError, match="credentials"):
            InputSpec.model_validate(wrong)


def test_where_an_input_lies_and_whose_credential_reads_it_is_not_in_the_digest() -> None:
    pinned = {"dataset": "d" * 32, "signer": "e" * 64}
    here = InputSpec.model_validate({"path": "/here", **pinned})
    assert InputSpec.model_validate({"path": "s3://bkt/t", "credentials": SOURCE, **pinned}).canonical_form() == here.canonical_form()


JOB = """name = "j"
program = "main.py"
engine = "{engine}"
[policy]
[broker]
url = "https://broker.example:1"
spki = "{spki}"
[inputs.t]
path = "s3://bkt/t"
credentials = "kbs://kbs.example:8080/airline/storage/bucket"
credentials_spki = "{spki}"
[outputs.o]
path = "{out}"
"""


def test_a_job_file_names_urls_and_credentials(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("", encoding="utf-8")

    def loaded(engine: str, out: str = "out") -> Job:
        (tmp_path / "job.toml").write_text(JOB.format(engine=engine, spki="0" * 64, out=out), encoding="utf-8")
        return Job.load(tmp_path / "job.toml")

    spec = loaded("polars").inputs["t"]
    assert (spec.path, spec.credentials and spec.credentials.resource) == ("s3://bkt/t", SOURCE["resource"])
    assert Job.from_json(loaded("polars").to_json()) == loaded("polars")
    assert loaded("spark").inputs["t"] == spec
    with pytest.raises(JobError, match="an output at s3:// has credentials"):
        loaded("polars", "s3://bkt/out")


def test_without_a_tee_there_is_no_credential() -> None:
    with pytest.raises(ConfideError, match="attested nodes"):
        place_of(InputSpec.model_validate({"path": "s3://bkt/t", "credentials": SOURCE}), None)


def test_an_inputs_name_on_a_node_is_no_folder(agent: PolarsAgent) -> None:
    agent.add("t", TABLE, remote_folder("s3://bkt/t"))
    found = agent._inputs["t"]
    assert isinstance(found.folder, RemoteFolder)
    assert found.root.startswith("/confide-remote/")
    assert "bkt" not in str(found.info())
    assert dataclasses.replace(found, folder=Path("/x")).root == "/x"
