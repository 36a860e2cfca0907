"""Receipts: whatever is changed in one, or in what lies beside it, is noticed from files alone."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.receipt_world import NOW, RUN, manifest
from support.receipt_world import ReceiptRun as Run

from confide.attest.collateral_sources import FixedCollateral
from confide.attest.insecure import Fault
from confide.attest.policy import Rules
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, canonical
from confide.config import Settings
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey, dsse_sign
from confide.errors import CollateralError, ReceiptError
from confide.ids import JobDigest, NodeId, Role, RunId, Tee
from confide.jobs.evidence import describe
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.receipt import examine, load_bundle, verify
from confide.jobs.statement import (
    PAYLOAD_TYPE,
    DataEntry,
    ReceiptBundle,
)
from confide.jobs.store import RunDir
from confide.keys.audit import AuditHead
from confide.node.record import EvidenceRecord
from confide.node.workload import NodeReport, Refusal


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> SimulatedTee:
    return SimulatedTee.at(tmp_path_factory.mktemp("home") / "simulated")


PARENT = "5a" * 48


@pytest.fixture
def run(tee: SimulatedTee) -> Run:
    return Run(tee)


def failed(bundle: ReceiptBundle, tee: SimulatedTee, **options: Any) -> list[str]:
    found = examine(bundle, roots=tee.roots, **options)
    with pytest.raises(ReceiptError):
        found.require()
    return [check.name for check in found.checks if not check.ok]


def test_a_receipt_is_accepted_with_one_line_a_check(run: Run) -> None:
    found = verify(run.bundle(), roots=run.tee.roots)
    assert [c.name for c in found.checks] == [
        "signature", "job", "policy", "node driver", "node worker-1", "refused worker-2", "input flights", "inputs", "output delays",
        "outputs", "keys", "data", "audit head",
    ]  # fmt: skip
    assert found.accepted
    assert found.require().simulated
    assert found.to_json()["simulated"] is True


def test_the_snapshot_that_the_job_names_is_the_one_that_was_read(tee: SimulatedTee) -> None:
    verify(Run(tee, snapshot=1).bundle(), roots=tee.roots)
    assert failed(Run(tee, snapshot=2).bundle(), tee) == ["input flights"]


@pytest.mark.parametrize(
    ("goes_on", "parent", "said", "accepted"),
    [
        ("22" * 16, PARENT, PARENT, True),
        ("22" * 16, PARENT, "", False),
        ("22" * 16, PARENT, "00" * 48, False),
        ("22" * 16, None, "", False),
        ("33" * 16, PARENT, PARENT, False),
        (None, PARENT, PARENT, False),
    ],
)
def test_an_output_that_goes_on_names_the_snapshot_before_and_no_other_output_does(
    tee: SimulatedTee, goes_on: str | None, parent: str | None, said: str, accepted: bool
) -> None:
    run = Run(tee, goes_on=goes_on)
    run.output_manifest = manifest("delays", "22" * 16, run.driver, run=RUN, parent=parent)
    row = run.row("delays", run.output_manifest, "22" * 16, run.driver)
    row = dataclasses.replace(row, parent=said, snapshot=1 if parent is None else 2)
    bundle = run.bundle(outputs=(row,))
    if accepted:
        assert "snapshot 2 after 5a5a" in next(c.got for c in verify(bundle, roots=tee.roots).checks if c.name == "output delays")
    else:
        assert failed(bundle, tee) == ["output delays"]


def test_an_input_says_nothing_of_the_snapshot_before(run: Run) -> None:
    row = dataclasses.replace(run.row("flights", run.input_manifest, "11" * 16, run.owner), parent=PARENT)
    assert failed(run.bundle(inputs=(row,)), run.tee) == ["input flights"]


def test_a_receipt_is_checked_from_files_alone(run: Run, tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    bundle = run.bundle()
    folder.write("receipt.json", bundle.receipt)
    for kind in ("evidence", "latest", "refused", "collateral", "manifests"):
        for name, value in getattr(bundle, kind).items():
            folder.write(f"{kind}/{name}.json", value)
    verify(tmp_path, roots=run.tee.roots)
    verify(tmp_path / "receipt.json", roots=run.tee.roots)
    verify(tmp_path, settings=Settings(home=run.tee.installation.folder.parent))
    (tmp_path / "evidence" / "worker-1.json").unlink()
    with pytest.raises(ReceiptError):
        verify(tmp_path, roots=run.tee.roots)


def test_simulated_evidence_is_refused_without_its_installations_root(run: Run, tmp_path: Path) -> None:
    found = examine(run.bundle(), roots=TrustRoots())
    assert {"node driver", "node worker-1"} <= {c.name for c in found.checks if not c.ok}
    with pytest.raises(ReceiptError):
        verify(run.bundle(), settings=Settings(home=tmp_path))


def test_a_receipt_of_another_job_than_the_one_meant_is_refused(run: Run) -> None:
    """A receipt made in good order for a job of somebody's own choice shows nothing about the job its reader means."""
    assert verify(run.bundle(), roots=run.tee.roots, job=run.job).to_json()["job_given"]
    assert not verify(run.bundle(), roots=run.tee.roots).to_json()["job_given"]
    assert failed(run.bundle(), run.tee, job="ab" * 48) == ["job"]


def test_a_receipt_signed_by_another_key_is_refused(run: Run) -> None:
    assert failed(run.bundle(signer=run.worker), run.tee) == ["signature"]


def change(table: dict[str, Json], name: str, path: tuple[str, ...], value: Any) -> dict[str, Json]:
    table = copy.deepcopy(table)
    place = table[name]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return table


@pytest.mark.parametrize("path", [("at",), ("nonce",), ("evidence", "quote"), ("context", "node"), ("spki",)])
def test_a_changed_evidence_record_is_refused(run: Run, path: tuple[str, ...]) -> None:
    bundle = run.bundle()
    other = run.record("driver", Role.DRIVER, SigningKey.generate(), Tee.SGX).to_json()
    value: Any = other[path[0]] if len(path) == 1 else other[path[0]][path[1]]
    if path == ("at",):
        value = (NOW - timedelta(seconds=1)).isoformat()
    elif path == ("context", "node"):
        value = "worker-9"
    changed = dataclasses.replace(bundle, evidence=change(dict(bundle.evidence), "worker-1", path, value))
    assert "node worker-1" in failed(changed, run.tee)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fault": Fault.OUT_OF_DATE}, "tcb-status"),
        ({"measurement": "ef" * 48}, "measurement"),
        ({"run": RunId("other-1")}, "run"),
        ({"job": JobDigest("00" * 48)}, "job"),
    ],
)
def test_evidence_that_is_not_for_this_run_or_policy_is_refused(run: Run, changes: dict[str, Any], reason: str) -> None:
    run.records["worker-1"] = run.record("worker-1", Role.WORKER, run.worker, Tee.TDX, **changes)
    bundle = run.bundle()
    assert failed(bundle, run.tee) == ["node worker-1"]
    assert reason in next(c.got for c in examine(bundle, roots=run.tee.roots).checks if not c.ok)


def test_evidence_of_another_role_is_refused(run: Run) -> None:
    run.records["worker-1"] = run.record("worker-1", Role.BROKER, run.worker, Tee.TDX)
    assert failed(run.bundle(), run.tee) == ["node worker-1"]


def test_a_relying_partys_own_policy_decides(run: Run) -> None:
    strict = Rules(name="strict", measurements={"tdx": ("01" * 48,)}, allow=("simulated",))
    assert failed(run.bundle(), run.tee, policy=strict) == ["node driver", "node worker-1"]


def test_a_refusal_that_cannot_be_repeated_is_noticed(run: Run) -> None:
    honest = run.record("worker-2", Role.WORKER, SigningKey.generate(), Tee.SGX)
    run.refused = [Refusal(NodeId("worker-2"), "appraisal-refused", honest)]
    assert failed(run.bundle(), run.tee) == ["refused worker-2"]


def test_the_evidence_of_a_refused_worker_is_kept(run: Run) -> None:
    bundle = run.bundle()
    assert failed(dataclasses.replace(bundle, refused={}), run.tee) == ["refused worker-2"]
    (digest,) = bundle.refused
    other = run.record("worker-2", Role.WORKER, SigningKey.generate(), Tee.SGX, measurement="ef" * 32)
    assert failed(dataclasses.replace(bundle, refused={digest: other.to_json()}), run.tee) == ["refused worker-2"]


@pytest.mark.parametrize(("code", "evidence"), [("binding-mismatch", True), ("protocol-violation", False), ("evidence-invalid", False)])
def test_a_refusal_for_something_else_than_evidence_says_so(run: Run, code: str, evidence: bool) -> None:
    run.refused = [Refusal(NodeId("worker-2"), code, run.refused[0].record if evidence else None)]
    (check,) = [c for c in verify(run.bundle(), roots=run.tee.roots).checks if c.name == "refused worker-2"]
    assert check.got == ("refused for its session, which files do not show" if evidence else "kept no evidence that is genuine")


def test_other_collateral_is_refused(run: Run) -> None:
    run.refused = []
    bundle = run.bundle()
    (first, second) = bundle.collateral
    swapped = dataclasses.replace(bundle, collateral={first: bundle.collateral[second], second: bundle.collateral[first]})
    assert failed(swapped, run.tee) == ["node driver", "node worker-1"]
    assert failed(dataclasses.replace(bundle, collateral={}), run.tee) == ["node driver", "node worker-1"]


Change = Callable[[Run], dict[str, Any]]
CHANGES: dict[str, tuple[str, Change]] = {
    "another job form": ("job", lambda r: {"form": {**r.form, "name": "other"}}),
    "another policy digest": ("policy", lambda r: {"policy": "00" * 48}),
    "an input left out": ("inputs", lambda r: {"inputs": ()}),
    "an output left out": ("outputs", lambda r: {"outputs": ()}),
    "an audit head by another key": ("audit head", lambda r: {"audit_head": AuditHead(3, "00" * 32, 5, "t").sign(r.owner)}),
    "another broker": ("audit head", lambda r: {"broker_key": "AAAA"}),
    "an input of another manifest": ("input flights", lambda r: {"inputs": (dataclasses.replace(r.statement().inputs[0], manifest="0"),)}),
    "an input by another signer": ("input flights", lambda r: {"inputs": (r.row("flights", r.input_manifest, "11" * 16, r.worker),)}),
    "an input of another dataset": ("input flights", lambda r: {"inputs": (r.row("flights", r.input_manifest, "33" * 16, r.owner),)}),
    "an input of another snapshot": ("input flights", lambda r: {"inputs": (dataclasses.replace(r.statement().inputs[0], snapshot=2),)}),
    "a key for a stranger": ("keys", lambda r: {"releases": (*r.statement().releases, r.release("worker-2", "flights", "read"))}),
    "a key of no dataset": ("keys", lambda r: {"releases": (*r.statement().releases, r.release("driver", "other", "read"))}),
    "a key of an older version": ("keys", lambda r: {"releases": (r.release("driver", "flights", "read", version=0),)}),
    "a key without a grant": ("keys", lambda r: {"releases": (r.release("driver", "delays", "write", grants={}),)}),
    "a key under a stranger's grant": (
        "keys",
        lambda r: {"releases": (r.release("driver", "delays", "write", grants={"x/y": {"grant": "ab" * 8, "policy": "cd" * 48}}),)},
    ),
    "a grant that is none": ("keys", lambda r: {"releases": (r.release("driver", "delays", "write", grants={"airline/flights": {}}),)}),
    "an output that nobody had a key for": ("keys", lambda r: {"releases": ()}),
    "an output by another signer": ("output delays", lambda r: {"outputs": (r.row("delays", r.output_manifest, "22" * 16, r.worker),)}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_driver_that_signs_something_else_is_noticed(run: Run, what: str) -> None:
    check, make = CHANGES[what]
    assert check in failed(run.bundle(**make(run)), run.tee)


@pytest.mark.parametrize(("which", "check"), [("input_manifest", "input flights"), ("output_manifest", "output delays")])
def test_a_manifest_whose_signature_does_not_verify_is_refused(run: Run, which: str, check: str) -> None:
    forged = copy.deepcopy(getattr(run, which))
    other = "output_manifest" if which == "input_manifest" else "input_manifest"
    forged["signatures"][0]["sig"] = getattr(run, other)["signatures"][0]["sig"]
    setattr(run, which, forged)
    assert failed(run.bundle(), run.tee) == [check]


def test_an_output_that_another_key_signed_is_refused(run: Run) -> None:
    run.output_manifest = manifest("delays", "22" * 16, run.worker, run=RUN)
    assert failed(run.bundle(), run.tee) == ["output delays"]


@pytest.mark.parametrize(
    "rows",
    [
        [DataEntry("worker-9", 1, 0, 0, 0, 0, 0, 0, 0, 0)],
        [DataEntry("worker-1", 1, 0, 0, 0, 0, 0, 0, 0, 0)] * 2,
        [DataEntry("worker-1", 1, 0, 0, -5, 0, 0, 0, 0, 0)],
    ],
)
def test_counts_of_another_node_twice_or_below_zero_are_refused(run: Run, rows: list[DataEntry]) -> None:
    assert failed(run.bundle(data=tuple(rows)), run.tee) == ["data"]


def attested_again(of: Run, /, **changes: Any) -> EvidenceRecord:
    """The worker of a run, attested again a minute later."""
    kept = {"seal": of.records["worker-1"].context.seal, "at": NOW + timedelta(minutes=1)}
    node, role, key = changes.pop("node", "worker-1"), changes.pop("role", Role.WORKER), changes.pop("key", of.worker)
    return of.record(node, role, key, changes.pop("kind", Tee.TDX), **{**kept, **changes})


def test_a_node_that_was_attested_again_has_a_line_more(run: Run) -> None:
    run.latest["worker-1"] = attested_again(run)
    found = verify(run.bundle(), roots=run.tee.roots)
    (check,) = [c for c in found.checks if c.name == "again worker-1"]
    assert (check.expected, check.got[:8]) == ("accepted 3 times more", "UpToDate")


@pytest.mark.parametrize(
    "changes",
    [
        {"fault": Fault.OUT_OF_DATE},
        {"measurement": "ef" * 48},
        {"kind": Tee.SGX},
        {"run": RunId("other-1")},
        {"job": JobDigest("00" * 48)},
        {"node": "worker-3"},
        {"role": Role.DRIVER},
        {"seal": SealKey.generate().public_jwk()},
        {"key": SigningKey.generate()},
        {"at": NOW - timedelta(seconds=1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_latest_evidence_that_is_not_of_the_same_node_in_good_standing_is_refused(run: Run, changes: dict[str, Any]) -> None:
    run.latest["worker-1"] = attested_again(run, **changes)
    assert failed(run.bundle(), run.tee) == ["again worker-1"]


def test_the_first_evidence_does_not_pass_for_the_latest(run: Run) -> None:
    run.latest["worker-1"] = run.records["worker-1"]
    assert failed(run.bundle(), run.tee) == ["again worker-1"]


def test_latest_evidence_is_kept_and_told_in_full(run: Run) -> None:
    run.latest["worker-1"] = attested_again(run)
    bundle = run.bundle()
    assert failed(dataclasses.replace(bundle, latest={}), run.tee) == ["again worker-1"]
    other = {"worker-1": attested_again(run).to_json()}
    assert failed(dataclasses.replace(bundle, latest=other), run.tee) == ["again worker-1"]
    for untold in ({"again": 0}, {"latest": ""}, {"latest_collateral": ""}):
        rows = tuple(dataclasses.replace(row, **untold) if row.node == "worker-1" else row for row in run.statement().nodes)  # type: ignore[arg-type]
        assert failed(run.bundle(nodes=rows), run.tee) == ["again worker-1"]


def test_a_long_run_keeps_the_collateral_of_when_it_judged(run: Run) -> None:
    """Collateral of the end of a run may be newer than evidence of its beginning, and judges it by what was not known then."""
    record = run.records["worker-1"]
    of_then = run.tee.verifier().verify(record.evidence, record.at).collateral
    nothing_now = Verifier(run.tee.roots, FixedCollateral())
    report = NodeReport(NodeId("worker-1"), record, "ok", 1, record, of_then, of_then)
    assert [found.digest for found in describe(report, nothing_now)[1]] == [of_then.digest] * 2
    with pytest.raises(CollateralError):
        describe(dataclasses.replace(report, collateral=None), nothing_now)


@pytest.mark.parametrize("field", ["tcb_status", "measurement", "simulated", "spki", "evidence", "tee", "epoch"])
def test_a_node_row_that_says_other_than_its_evidence_is_refused(run: Run, field: str) -> None:
    rows = run.statement().nodes
    value: Any = {"simulated": False, "epoch": {}}.get(field, "sgx")
    changed = tuple(dataclasses.replace(row, **{field: value}) if row.node == "worker-1" else row for row in rows)
    assert failed(run.bundle(nodes=changed), run.tee) == ["node worker-1"]


def test_a_receipt_needs_exactly_one_driver(run: Run) -> None:
    workers = tuple(row for row in run.statement().nodes if row.role == "worker")
    assert failed(run.bundle(nodes=workers), run.tee) == ["receipt"]


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"x", canonical({"_type": "https://in-toto.io/Statement/v1", "subject": [],
                                                                   "predicateType": "other", "predicate": {}})])  # fmt: skip
def test_something_else_that_is_signed_is_no_receipt(run: Run, payload: bytes) -> None:
    bundle = dataclasses.replace(run.bundle(), receipt=dsse_sign(run.driver, PAYLOAD_TYPE, payload))
    assert failed(bundle, run.tee) == ["receipt"]


def test_a_receipt_with_an_unknown_field_or_loose_spelling_is_refused(run: Run) -> None:
    statement = run.statement().to_json()
    for payload in (
        canonical({**statement, "more": 1}),
        json.dumps(statement).encode(),
        canonical({**statement, "predicate": {**statement["predicate"], "more": 1}}),
        canonical({**statement, "subject": []}),
    ):
        bundle = dataclasses.replace(run.bundle(), receipt=dsse_sign(run.driver, PAYLOAD_TYPE, payload))
        assert failed(bundle, run.tee) == ["receipt"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"receipt": {}, "evidence": {"../x": {}}, "latest": {}, "refused": {}, "collateral": {}, "manifests": {}},
        {"receipt": {}, "evidence": {}, "latest": {}, "refused": {"x": {}}, "collateral": {}, "manifests": {}},
        {"receipt": {}, "evidence": {}, "latest": {}, "refused": {}, "collateral": {"x": {}}, "manifests": {}},
    ],
)
def test_a_bundle_with_names_that_are_no_names_is_refused(data: Json) -> None:
    with pytest.raises(ReceiptError):
        ReceiptBundle.from_json(data)


def test_a_bundle_survives_the_channel(run: Run) -> None:
    bundle = run.bundle()
    assert ReceiptBundle.from_json(json.loads(json.dumps(bundle.to_json()))) == bundle


def test_no_receipt_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReceiptError):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["receipt.json", "evidence/driver.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    """It may be somebody else's, where a link leads to a device that never ends (``None``)."""
    (tmp_path / "evidence").mkdir()
    for file in ("receipt.json", name):
        (tmp_path / file).unlink(missing_ok=True)
        (tmp_path / file).write_bytes(content or b"{}")
    if content is None:
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ReceiptError, match="not a JSON object" if content else "not a regular file"):
        load_bundle(tmp_path)
