"""The reference pages say what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, fields
from datetime import date
from pathlib import Path

from confide.attest import policy_lint
from confide.attest.policy import Policy, Rules
from confide.attest.policy_values import Platforms, Signers
from confide.canonical import Json
from confide.config import Settings
from confide.job import Job

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
_BLOCK = re.compile(r"```toml\n(.*?)```", re.DOTALL)


def _blocks(page: str) -> list[Json]:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return [tomllib.loads(re.sub(r'"([0-9a-z]*)\.\.\."', r'"\1"', block)) for block in _BLOCK.findall(text)]


def test_every_setting_is_documented_with_its_default() -> None:
    page = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    for setting in fields(Settings):
        if setting.name == "origin":
            continue
        assert f"| `{setting.name}` |" in page
        if isinstance(setting.default, float):
            assert f"| `{setting.name}` | {setting.default} |" in page
        assert setting.default is not MISSING or setting.default_factory is not MISSING


def test_every_job_field_is_in_the_example() -> None:
    job = _blocks("job-file.md")[0]
    assert set(job) == set(Job.model_fields) - {"signatures"}  # these lie beside the job file
    assert set(job["resources"]) == set(type(Job.model_fields["resources"].default).model_fields)


def test_example_job_is_a_job_and_its_policy_a_policy(tmp_path: Path) -> None:
    job, remote, sent, policy = _blocks("job-file.md")
    policy["measurements"] = {"sgx": ["ab" * 32], "tdx": ["cd" * 48], "snp": ["cd" * 48]}
    policy["registers"] = {name: ["ef" * 48] for name in policy["registers"]}
    assert Policy.from_json(policy).name == "our-nodes"
    (tmp_path / "policy.json").write_text(json.dumps(policy), encoding="utf-8")
    for name in (job["program"], *job["files"], job["inputs"]["fares"]["key_ca"]):
        (tmp_path / name).write_text("# not read here\n", encoding="utf-8")
    text = _BLOCK.findall((REFERENCE / "job-file.md").read_text(encoding="utf-8"))[0]
    for said, meant in (("5be1...", "ab" * 32), ("0f3c...", "0f" * 16), ("9a41...", "9a" * 32), ("policy.toml", "policy.json")):
        assert said in text
        text = text.replace(said, meant)
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    assert Job.load(tmp_path / "job.toml").resources.workers == 2
    for table in (*remote["inputs"].values(), *sent["outputs"].values()):
        (tmp_path / table["credentials_ca"]).write_text("# not read here\n", encoding="utf-8")
    alone = text.split("[inputs.flights]")[0].replace('engine = "spark"', 'engine = "polars"')
    more = "\n" + "\n".join(_BLOCK.findall((REFERENCE / "job-file.md").read_text(encoding="utf-8"))[1:3])
    outputs = "[outputs" + text.split("[outputs")[1].split("[resources]")[0]
    (tmp_path / "remote.toml").write_text(alone + more + outputs, encoding="utf-8")
    loaded = Job.load(tmp_path / "remote.toml")
    assert loaded.inputs["weather-archive"].credentials is not None
    assert loaded.outputs["daily"].staging


def test_every_field_and_finding_of_policies_is_documented() -> None:
    page = (REFERENCE / "policy.md").read_text(encoding="utf-8")
    fields = {*Rules.model_fields} - {"signers", "platforms"}
    fields |= {f"signers.{name}" for name in Signers.model_fields} | {f"platforms.{name}" for name in Platforms.model_fields}
    assert [name for name in fields if f"`{name}`" not in page] == []
    source = Path(policy_lint.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', source))
    assert len(codes) == 14
    assert all(f"`{code}`" in page for code in codes)


def test_example_policies_are_policies() -> None:
    def filled(policy: Json) -> Json:
        members = {word: list(map(filled, policy[word])) for word in ("all_of", "any_of") if word in policy}
        sizes = {"sgx": 32, "tdx": 48}
        measurements = {tee: [values[0][:6] + "ab" * (sizes[tee] - 3)] for tee, values in policy.get("measurements", {}).items()}
        registers = {name: ["ef" * 48] for name in policy.get("registers", {})}
        pins = {name: pin for name, pin in (("measurements", measurements), ("registers", registers)) if pin}
        return {**policy, **members, **pins}

    rules, composed = (Policy.from_json(filled(block)) for block in _blocks("policy.md"))
    for policy in (rules, composed):
        assert [finding.code for finding in policy_lint.lint(policy, date(2026, 12, 1)) if finding.severity == "error"] == []
    assert len(list(composed.walk())) == 5
