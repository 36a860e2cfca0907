"""Policies say which init-data a guest may have been started with: given documents, or that of its own job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from support.amd import NOW, Vendor, verify
from support.launched import Launched

from confide.attest import verify as verify_module
from confide.attest.init_data import JOB_DIGEST_NAME, InitData, job_init_data, require_init_data
from confide.attest.policy import Policy
from confide.attest.policy_diff import diff
from confide.attest.verify import VerifiedEvidence
from confide.errors import AppraisalError, ParseError, PolicyError
from confide.ids import JobDigest, ReportData, Role, Tee

SGX, TDX, JOB, OTHER = "5a" * 32, "5a" * 48, JobDigest("ab" * 48), JobDigest("cd" * 48)
MORE = {"policy.rego": "package agent_policy\n"}
TD: dict[str, Any] = {"name": "td", "measurements": {"tdx": [TDX]}, "allow": ["simulated"]}
SNP: dict[str, Any] = {"name": "amd", "measurements": {"snp": [TDX]}}


@pytest.fixture
def verified(verifier, installation, now) -> Callable[..., VerifiedEvidence]:
    """Genuine evidence of a guest that was started with ``held``."""

    def make(held: bytes, tee: Tee = Tee.TDX) -> VerifiedEvidence:
        measurement = SGX if tee is Tee.SGX else TDX
        return verifier.verify(Launched(installation, tee, measurement, held).quote(ReportData(bytes(64))), now)

    return make


def refused(policy: dict[str, Any], verified: VerifiedEvidence, now: datetime, job: JobDigest | None = JOB) -> list[str]:
    role = None if job is None else Role.WORKER
    return [check.name for check in Policy.from_json(policy).explain(verified, role=role, job=job, now=now) if not check.ok]


def test_guest_of_its_job_is_accepted_and_of_another_job_or_with_other_entries_refused(verified, now) -> None:
    policy, held = {**TD, "job_init_data": MORE}, job_init_data(JOB, Tee.TDX, MORE).bound_value(Tee.TDX)
    assert refused(policy, verified(held), now) == []
    assert refused(policy, verified(held), now, OTHER) == ["init-data"]
    for other in ({}, {**MORE, "aa.toml": ""}, {"policy.rego": MORE["policy.rego"] + " "}):
        assert refused(policy, verified(job_init_data(JOB, Tee.TDX, other).bound_value(Tee.TDX)), now) == ["init-data"]
    assert refused(policy, verified(bytes(48)), now) == ["init-data"]


def test_whose_job_it_is_only_a_session_tells(verified, now) -> None:
    held = job_init_data(JOB, Tee.TDX, MORE).bound_value(Tee.TDX)
    assert refused({**TD, "job_init_data": MORE}, verified(held), now, None) == ["init-data"]


@pytest.mark.parametrize(("tee", "size"), [(Tee.TDX, 48), (Tee.SGX, 64)])
def test_given_documents_are_accepted_and_no_others(verified, now, tee, size) -> None:
    policy = {"name": "one", "measurements": {tee: [SGX if tee is Tee.SGX else TDX]}, "allow": ["simulated"]}
    policy["init_data"] = {tee: ["11" * size, "22" * size]}
    assert refused(policy, verified(b"\x11" * size, tee), now) == []
    assert refused(policy, verified(b"\x22" * size, tee), now) == []
    assert refused(policy, verified(b"\x33" * size, tee), now) == ["init-data"]
    assert refused(policy, verified(bytes(size), tee), now) == ["init-data"]


def test_snp_guest_holds_it_in_host_data() -> None:
    """A report signed by a key of the tests."""
    vendor, held = Vendor("Genoa", NOW), job_init_data(JOB, Tee.SNP, MORE).bound_value(Tee.SNP)
    right, wrong = (verify(vendor, vendor.evidence(patch=(0xC0, found))) for found in (held, bytes(32)))
    policy = {**SNP, "min_tcb": {"Genoa": right.claims.tcb}, "job_init_data": MORE}
    assert refused(policy, right, NOW) == []
    assert refused(policy, wrong, NOW) == ["init-data"]
    assert refused(policy, right, NOW, OTHER) == ["init-data"]


def test_a_tpm_holds_it_in_pcr_8(verified, now) -> None:
    given = verified(bytes(48))
    document = InitData.parse('version = "0.1.0"\nalgorithm = "sha256"\n[data]\n')
    policy = {"name": "t", "measurements": {"tpm": [SGX]}, "registers": {"pcr4": ["44" * 32]}, "allow": ["tpm-no-memory-protection"]}
    policy |= {"init_data": {"tpm": [document.bound_value(Tee.TPM).hex()]}}
    for pcr8, names in ((hashlib.sha256(bytes(32) + document.digest).hexdigest(), []), ("", ["init-data"]), ("00" * 32, ["init-data"])):
        claims = replace(given.claims, tee=Tee.TPM, measurement=SGX, registers={"pcr4": "44" * 32, "pcr8": pcr8})
        shown = VerifiedEvidence(claims, given.evidence, given.collateral, now, token=verify_module._TOKEN)
        assert [name for name in refused(policy, shown, now) if name == "init-data"] == names


def test_what_a_session_asks_for_is_compared_whole(verified) -> None:
    claims = verified(b"\x11" * 48).claims
    require_init_data(claims, "11" * 48)
    for other in ("11" * 47, "", "11" * 47 + "12"):
        with pytest.raises(AppraisalError, match="init-data") as caught:
            require_init_data(claims, other)
        assert caught.value.facts["check"] == "init-data"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_data": {"tdx": ["11" * 32]}}, "96 for tdx"),
        ({"init_data": {"tdx": []}}, "96 for tdx"),
        ({"init_data": {"tdx": ["00" * 48]}}, "zeros"),
        ({"init_data": {"snp": ["11" * 32]}}, "does not accept"),
        ({"job_init_data": {JOB_DIGEST_NAME: "x"}}, "job's own"),
        ({"job_init_data": MORE, "init_data": {"tdx": ["11" * 48]}}, "one document"),
        ({"job_init_data": MORE, "measurements": {"tdx": [TDX], "sgx": [SGX]}}, "tdx and snp only"),
    ],
)
def test_policy_that_cannot_be_meant_is_refused(change, message) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.from_json({**TD, **change})


def test_policy_that_asks_nothing_of_it_is_written_as_ever() -> None:
    assert not {"init_data", "job_init_data"} & set(Policy.from_json(TD).to_json())
    asked = Policy.from_json({**TD, "job_init_data": MORE})
    assert Policy.from_json(asked.to_json()) == asked
    assert asked.digest != Policy.from_json(TD).digest


def test_what_changes_is_told() -> None:
    plain, job, other = (Policy.from_json({**TD, **more}) for more in ({}, {"job_init_data": MORE}, {"job_init_data": {"a": "b"}}))
    named = Policy.from_json({**TD, "init_data": {"tdx": ["11" * 48]}})
    assert [(change.field, change.direction) for change in diff(plain, job)] == [("job_init_data", "stricter")]
    assert [(change.field, change.direction) for change in diff(job, plain)] == [("job_init_data", "laxer")]
    assert [(change.field, change.direction) for change in diff(job, other)] == [("job_init_data", "changed")]
    assert [(change.field, change.direction) for change in diff(plain, named)] == [("init_data.tdx", "stricter")]


def test_documents_of_jobs_are_for_guests_that_are_given_them() -> None:
    for tee in (Tee.SGX, Tee.TPM):
        with pytest.raises(ParseError, match="init-data of a job"):
            job_init_data(JOB, tee, {})
    with pytest.raises(ParseError, match="job's own"):
        job_init_data(JOB, Tee.TDX, {JOB_DIGEST_NAME: "x"})


@pytest.mark.parametrize(("algorithm", "size"), [("sha256", 32), ("sha384", 48), ("sha512", 64)])
def test_a_digest_is_cut_or_filled_up_as_kata_containers_does(algorithm, size) -> None:
    """``adjust_digest`` of its ``initdata.rs``: the first bytes, or zeros behind them."""
    document = InitData.parse(f'version = "0.1.0"\nalgorithm = "{algorithm}"\n[data]\n')
    digest = hashlib.new(algorithm, document.body.encode()).digest()
    assert len(digest) == size
    for tee, length in ((Tee.TDX, 48), (Tee.SNP, 32), (Tee.SGX, 64)):
        assert document.bound_value(tee) == (digest + bytes(64))[:length] if size < length else digest[:length]
