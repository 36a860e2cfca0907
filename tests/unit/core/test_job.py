"""The job: what is in its digest, what is not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confide.errors import JobError
from confide.job import MAX_CODE_BYTES, Job


def job_data(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": "delays",
        "program": "delays.py",
        "files": {"delays.py": b"print('hello')\n"},
        "arguments": ("--year", "2013"),
        "inputs": {"flights": {"path": "/data/flights", "dataset": "ab" * 16, "signer": "cd" * 32}},
        "outputs": {"result": {"path": "/out/result", "recipients": ("analyst",)}},
        "policy": {"name": "p"},
        "broker": {"url": "https://127.0.0.1:8443", "spki": "ef" * 32},
    }
    return {**data, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"delays.py": b"print('hullo')\n"}},
        {"files": {"delays.py": b"print('hello')\n", "more.py": b""}},
        {"arguments": ("--year", "2014")},
        {"inputs": {"flights": {"path": "/data/flights", "dataset": "00" * 16, "signer": "cd" * 32}}},
        {"inputs": {"flights": {"path": "/data/flights", "dataset": "ab" * 16, "signer": "00" * 32}}},
        {"outputs": {"result": {"path": "/out/result", "recipients": ("analyst", "mallory")}}},
        {"policy": {"name": "q"}},
        {"broker": {"url": "https://127.0.0.1:8443", "spki": "00" * 32}},
        {"name": "other"},
    ],
)
def test_digest_changes_with_everything_an_owner_approves(changes: dict[str, Any]) -> None:
    assert Job.build(job_data(**changes)).digest != Job.build(job_data()).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {"flights": {"path": "/elsewhere", "dataset": "ab" * 16, "signer": "cd" * 32}}},
        {"outputs": {"result": {"path": "/elsewhere", "recipients": ("analyst",)}}},
        {"broker": {"url": "https://10.0.0.1:1", "spki": "ef" * 32}},
        {"resources": {"workers": 5}},
    ],
)
def test_digest_does_not_depend_on_where_things_lie(changes: dict[str, Any]) -> None:
    assert Job.build(job_data(**changes)).digest == Job.build(job_data()).digest


def test_digest_is_pinned_so_that_grants_stay_valid_between_releases() -> None:
    expected = "a958acb2288fbec6"
    digest = Job.build(job_data()).digest
    assert len(digest) == 96
    assert digest[:16] == expected


def test_unpinned_input_has_no_digest() -> None:
    job = Job.build(job_data(inputs={"flights": {"path": "/data/flights"}}))
    with pytest.raises(JobError, match="not pinned"):
        _ = job.digest


def test_a_field_that_there_is_not_is_told_as_one() -> None:
    with pytest.raises(JobError, match=r"^outputs\.result\.recipient: there is no such field") as caught:
        Job.build(job_data(outputs={"result": {"path": "/out/result", "recipients": ("analyst",), "recipient": "analyst"}}))
    assert "job-file.md" in (caught.value.hint or "")


def test_json_round_trip_keeps_the_digest() -> None:
    job = Job.build(job_data())
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    "changes",
    [
        {"program": "absent.py"},
        {"files": {"delays.py": b"", "../x.py": b""}},
        {"files": {"delays.py": b"", "/x.py": b""}},
        {"files": {"delays.py": b"", "a//x.py": b""}},
        {"files": {"delays.py": b"x" * (MAX_CODE_BYTES + 1)}},
        {"name": "Not A Name"},
        {"engine": "flink"},
        {"surprise": 1},
        {"outputs": {"flights": {"path": "/x"}}},
        {"broker": {"url": "https://x", "spki": "short"}},
        {"resources": {"workers": 0}},
        {"resources": {"workers": 1, "min_workers": 2}},
    ],
)
def test_wrong_job_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        Job.build(job_data(**changes))


@pytest.mark.parametrize("files", [None, {"a.py": 1}, []])
def test_json_without_proper_files_is_refused(files: Any) -> None:
    with pytest.raises(JobError, match="files"):
        Job.from_json({**Job.build(job_data()).to_json(), "files": files})


def test_code_bytes_are_not_in_the_repr() -> None:
    assert "hello" not in repr(Job.build(job_data()))


def test_job_file_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("pass\n")
    (tmp_path / "policy.toml").write_text('name = "strict"\n')
    (tmp_path / "job.toml").write_text(
        f"""name = "j"\nprogram = "p.py"\npolicy = "policy.toml"\n
        [inputs.a]\npath = "data/a"\n[outputs.b]\npath = "/abs/b"\n[broker]\nurl = "https://127.0.0.1:1"\nspki = "{"0" * 64}"\n"""
    )
    job = Job.load(tmp_path / "job.toml")
    assert job.inputs["a"].path == str(tmp_path / "data" / "a")
    assert job.outputs["b"].path == "/abs/b"
    assert job.policy == {"name": "strict"}
    assert job.files == {"p.py": b"pass\n"}


JOB_FILE = {
    "name": '"j"',
    "program": '"p.py"',
    "policy": '"policy.toml"',
    "broker": f'{{url = "https://127.0.0.1:1", spki = "{"0" * 64}"}}',
}
ODD = ["5", "true", "nan", "2020-01-01", "[1]", "[[1]]", "[{}]", "{a = 1}"]
ODD += ['""', '"."', '"none"', '"a\\u0000b"', '"loop"', "99999999999999999999"]


def write_job_file(folder: Path, fields: dict[str, str], more: str = "") -> Path:
    (folder / "p.py").write_text("pass\n")
    (folder / "policy.toml").write_text('name = "strict"\n')
    (folder / "loop").symlink_to("loop")
    path = folder / "job.toml"
    path.write_text("\n".join(f"{name} = {value}" for name, value in fields.items()) + f"\n{more}\n")
    return path


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", [*JOB_FILE, "files", "inputs", "outputs", "resources"])
def test_job_file_with_odd_values_is_refused_in_words(tmp_path: Path, field: str, odd: str) -> None:
    if (field, odd) in {("name", '"none"'), ("name", '"loop"'), ("policy", "{a = 1}")}:  # odd elsewhere
        odd = "[]"
    with pytest.raises(JobError):
        Job.load(write_job_file(tmp_path, {**JOB_FILE, field: odd}))


@pytest.mark.parametrize("odd", ["5", "true", "[]", '""', '"a\\u0000b"', '"loop"'])
@pytest.mark.parametrize("table", ["inputs", "outputs"])
def test_job_file_with_an_odd_place_is_refused_in_words(tmp_path: Path, table: str, odd: str) -> None:
    with pytest.raises(JobError):
        Job.load(write_job_file(tmp_path, JOB_FILE, f"[{table}.a]\npath = {odd}"))


@pytest.mark.parametrize("place", ["loop", "loop/data"])
def test_links_that_go_round_are_refused_where_resolve_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = write_job_file(tmp_path, JOB_FILE, f'[inputs.a]\npath = "{place}"')
    monkeypatch.setattr(Path, "resolve", Path.absolute)  # as from Python 3.13 on
    with pytest.raises(JobError, match="not a place for a dataset"):
        Job.load(path)


@pytest.mark.parametrize("value", ["nan", "2020-01-01", "99999999999999999999"])
def test_policy_that_has_no_canonical_form_is_refused(tmp_path: Path, value: str) -> None:
    fields = {name: text for name, text in JOB_FILE.items() if name != "policy"}
    with pytest.raises(JobError, match="policy has a value that JSON cannot carry"):
        Job.load(write_job_file(tmp_path, fields, f"[policy]\nname = {value}"))


def test_code_that_is_too_long_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = write_job_file(tmp_path, {**JOB_FILE, "program": '"endless"'})
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(JobError, match="larger than"):
        Job.load(path)


def test_policy_file_may_be_json(tmp_path: Path) -> None:
    path = write_job_file(tmp_path, {**JOB_FILE, "policy": '"policy.json"'})
    (tmp_path / "policy.json").write_text('{"name": "strict"}')
    assert Job.load(path).policy == {"name": "strict"}
    (tmp_path / "policy.json").write_text('{"name": "strict", "name": "lax"}')
    with pytest.raises(JobError, match="not JSON"):
        Job.load(path)


def test_job_file_that_is_absent_or_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot read"):
        Job.load(tmp_path / "none.toml")
    for bad in (b"= 1", b"a = '\xff'", b"a = " + b"[" * 5000 + b"]" * 5000):
        (tmp_path / "bad.toml").write_bytes(bad)
        with pytest.raises(JobError, match="not TOML"):
            Job.load(tmp_path / "bad.toml")
