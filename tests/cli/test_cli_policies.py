"""``confide attest policy``: what it writes, finds and says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.attest.policy import Policy, json_schema

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
INTEL = {entry["id"]: entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text())}
QUOTE = VECTORS / INTEL["tdx-v4-uptodate"]["quote"]
AT = datetime.fromtimestamp(INTEL["tdx-v4-uptodate"]["now"], UTC).isoformat()
JUDGED = ("--collateral", VECTORS / INTEL["tdx-v4-uptodate"]["collateral"], "--at", AT)


def test_policy_of_evidence_asks_enough_and_accepts_it(confide: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    said = confide("attest", "policy", "new", QUOTE, *JUDGED, "--role", "worker", "--out", path, "--json")
    assert (said.status, said.json["from"]) == (0, "verified evidence")
    assert Policy.load(path).digest == said.json["digest"]
    assert confide("attest", "policy", "new", QUOTE, *JUDGED, "--role", "worker").out == path.read_text()
    said = confide("attest", "policy", "lint", path)
    assert (said.status, said.out.splitlines()[-1]) == (0, "new-policy: asks enough")
    assert "warning[init-data-unpinned]: whatever the host told the guest is accepted" in said.out
    assert confide("attest", "policy", "check", path, QUOTE, *JUDGED, "--role", "worker").status == 0


def test_check_shows_each_line_and_refuses(confide: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    confide("attest", "policy", "new", QUOTE, *JUDGED, "--min-tcb-date", "2040-01-01", "--role", "worker", "--out", path)
    said = confide("attest", "policy", "check", path, QUOTE, *JUDGED)
    assert said.status == 3
    assert "NO    tcb-date" in said.out
    assert "new-policy: REFUSED" in said.out
    found = confide("attest", "policy", "check", path, QUOTE, *JUDGED, "--role", "driver", "--json")
    refused = [check["name"] for check in found.json["checks"] if not check["ok"]]
    assert (found.status, refused, found.json["accepted"]) == (3, ["tcb-date", "role"], False)
    assert confide("attest", "policy", "check", path, QUOTE, *JUDGED, "--role", "client").status == 2


def test_unverified_evidence_is_believed_only_when_asked(confide: Any, tmp_path: Path) -> None:
    forged = bytearray(QUOTE.read_bytes())
    forged[200] ^= 1  # of MRTD: the signature does not verify any more
    (tmp_path / "forged").write_bytes(forged)
    assert confide("attest", "policy", "new", tmp_path / "forged", *JUDGED).status == 3
    said = confide("attest", "policy", "new", tmp_path / "forged", "--unverified")
    assert said.status == 0
    assert "nothing of this was verified" in said.err
    assert "min_tcb" not in said.out


def test_policy_of_a_build_needs_a_least_tcb(confide: Any, tmp_path: Path) -> None:
    build, path = tmp_path / "build.json", tmp_path / "p.toml"
    build.write_text(json.dumps({"tee": "sgx", "mrenclave": "5a" * 32, "mrsigner": "51" * 32, "isv_prod_id": 0, "isv_svn": 0}))
    confide("attest", "policy", "new", "--build", build, "--out", path)
    said = confide("attest", "policy", "lint", path, "--json")
    assert (said.status, [finding["code"] for finding in said.json["findings"]]) == (2, ["no-minimum-tcb"])
    assert "error[no-minimum-tcb]: sgx has no minimum TCB" in confide("attest", "policy", "lint", path).out
    build.write_text(json.dumps({"tee": "snp", "measurement": "5a" * 48}))
    assert confide("attest", "policy", "new", "--build", build).status == 2
    least = "Milan:bootloader=4,tee=0,snp=22,microcode=213"
    found = confide("attest", "policy", "new", "--build", build, "--min-tcb", least, "--json").json
    assert found["policy"]["min_tcb"] == {"Milan": {"bootloader": 4, "tee": 0, "snp": 22, "microcode": 213}}


GUESTS = f"""
shape = "tdx"
image = "registry.example/confide-node@sha256:{"12" * 32}"
namespace = "runs"
"""
JOB = f"""
name = "demo"
program = "main.py"
files = ["main.py"]

[policy]
name = "p"
measurements = {{ tdx = ["{"ab" * 48}"] }}

[broker]
url = "https://127.0.0.1:1"
spki = "{"cd" * 32}"
"""


def test_policy_asks_for_the_init_data_that_was_printed_for_a_job(confide: Any, tmp_path: Path) -> None:
    for name, text in (("cluster.toml", GUESTS), ("job.toml", JOB), ("main.py", "pass\n")):
        (tmp_path / name).write_text(text)
    made = confide("job", "init-data", tmp_path / "job.toml", "--cluster", tmp_path / "cluster.toml", "--json")
    (tmp_path / "printed.json").write_text(made.out)
    (tmp_path / "document.toml").write_text(made.json["document"])
    new = ("attest", "policy", "new", QUOTE, *JUDGED, "--role", "worker")
    for file in ("printed.json", "document.toml"):
        assert confide(*new, "--init-data", tmp_path / file, "--json").json["policy"]["init_data"] == {"tdx": [made.json["init_data"]]}
        entries = confide(*new, "--job-init-data", tmp_path / file, "--json").json["policy"]["job_init_data"]
        assert list(entries) == ["policy.rego"]
    path = tmp_path / "p.toml"
    assert confide(*new, "--job-init-data", tmp_path / "printed.json", "--out", path).status == 0
    assert Policy.load(path).job_init_data == entries
    assert confide("attest", "policy", "lint", path).out == "new-policy: asks enough\n"
    refused = confide("attest", "policy", "check", path, QUOTE, *JUDGED, "--job", made.json["digest"], "--json")
    assert [check["name"] for check in refused.json["checks"] if not check["ok"]] == ["init-data"]
    assert confide(*new, "--init-data", path).status == 5
    both = confide(*new, "--init-data", tmp_path / "printed.json", "--job-init-data", tmp_path / "printed.json")
    assert (both.status, "one document" in both.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--unverified",),
        (QUOTE, "--build", QUOTE),
        (QUOTE, "--unverified", "--min-tcb", "Milan"),
        (QUOTE, "--unverified", "--min-tcb-date", "soon"),
        (QUOTE, "--unverified", "--role", "client"),
        (QUOTE, "--unverified", "--out", QUOTE),
    ],
    ids=str,
)
def test_new_refuses_what_it_cannot_do(confide: Any, arguments: tuple[Any, ...]) -> None:
    assert confide("attest", "policy", "new", *arguments).status == 2


def test_diff_says_what_got_laxer(confide: Any, tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    confide("attest", "policy", "new", QUOTE, *JUDGED, "--role", "worker", "--out", old)
    confide("attest", "policy", "new", QUOTE, *JUDGED, "--role", "worker", "--min-tcb-eval", "1", "--out", new)
    said = confide("attest", "policy", "diff", old, new)
    assert said.status == 0
    assert "laxer    min_tcb_eval   17    1" in said.out
    assert confide("attest", "policy", "diff", old, new, "--json").json["laxer"] is True
    assert confide("attest", "policy", "diff", new, old, "--json").json["laxer"] is False
    assert "the policies ask the same" in confide("attest", "policy", "diff", old, old).err


def test_published_schema_is_current(confide: Any) -> None:
    said = confide("attest", "policy", "schema")
    assert said.json == json_schema()
    page = ROOT / "docs" / "reference" / "policy.schema.json"
    assert page.read_text(encoding="utf-8") == said.out, "run confide attest policy schema > docs/reference/policy.schema.json"


def test_simulated_nodes_policy_reads_and_lint_refuses_it(confide: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    assert confide("--home", tmp_path / "home", "attest", "measure", "--simulate", "--policy-out", path).status == 0
    assert Policy.load(path).allow == ("simulated",)
    assert path.read_text().startswith("# Accepts simulated nodes.  They protect nothing.\n")
    found = confide("attest", "policy", "lint", path, "--json")
    assert found.status == 2
    assert "simulated-allowed" in {finding["code"] for finding in found.json["findings"]}


def test_rego_policy_is_evaluated(confide: Any, tmp_path: Path) -> None:
    policy, reference = tmp_path / "p.rego", tmp_path / "reference.json"
    body = 'hardware := 2\nconfiguration := 2\nexecutables := 3 if input.tdx.quote.body.mr_td in query_reference_value("mr_td")\n'
    policy.write_text(f"package policy\nimport rego.v1\ndefault executables := 33\n{body}")
    measured = confide("attest", "verify", QUOTE, *JUDGED, "--json").json["claims"]["measurement"]
    reference.write_text(json.dumps({"mr_td": [measured]}))
    said = confide("attest", "policy", "rego", policy, QUOTE, *JUDGED, "--reference", reference)
    assert (said.status, said.out.splitlines()[-1].split(",")[0]) == (0, "p.rego: affirmed")
    refused = confide("attest", "policy", "rego", policy, QUOTE, *JUDGED, "--json")
    assert (refused.status, refused.json["trust_claims"]["executables"]) == (3, 33)
