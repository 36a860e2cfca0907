"""What a node, a host or a job's author can try against policies themselves.

Each test also shows that the attack works against a policy, or a check, without the defence: the defence is what stops it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from confide.attest.binding import SessionBinding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.attest.policy_diff import diff
from confide.attest.policy_lint import lint
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import b64url
from confide.errors import AppraisalError, PolicyError
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId, Tee

NOW = datetime(2030, 6, 1, tzinfo=UTC)
SGX, OTHER = "5a" * 32, "77" * 32
JOB, OTHER_JOB = JobDigest("ab" * 48), JobDigest("cd" * 48)
RULES: dict[str, Any] = {
    "name": "p",
    "measurements": {"sgx": [SGX]},
    "allow": ["simulated"],
    "min_tcb_date": "2020-01-01",
    "roles": ["worker"],
}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)


@pytest.fixture(scope="module")
def accept(vendor: Installation) -> Callable[..., AttestationResult]:
    """Appraise a genuine node; raises if it is refused."""

    def run(
        policy: dict[str, Any], *, job: JobDigest = JOB, measurement: str = SGX, fault: Fault | None = None, now: datetime = NOW
    ) -> AttestationResult:
        seal = {"kty": "EC", "crv": "P-256", "x": b64url(bytes(32)), "y": b64url(bytes(32))}
        context = NodeContext(job, RunId("demo-0123456789ab"), NodeId("worker-1"), seal)
        binding = SessionBinding(Role.WORKER, b"e" * 32, Nonce(b"n" * 32), b"spki", context)
        evidence = InsecureAttester(vendor, Tee.SGX, measurement, fault=fault).quote(binding.report_data)
        verifier = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
        return appraise(verifier.verify(evidence, now), Policy.from_json(policy), binding, now=now)

    return run


def _check(accept: Callable[..., AttestationResult], *args: Any, **options: Any) -> str:
    with pytest.raises(AppraisalError) as caught:
        accept(*args, **options)
    return str(caught.value.facts["check"])


# --- the laxer policy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "laxer",
    [
        {"measurements": {"sgx": [SGX, OTHER]}},
        {"allow": ["debug", "simulated"]},
        {"min_tcb_date": None},
        {"roles": ["driver", "worker"]},
        {"advisories_allowed": ["INTEL-SA-00001"]},
        {"statuses": ["OutOfDate", "UpToDate"]},
    ],
    ids=str,
)
def test_laxer_policy_has_another_digest_and_diff_says_that_it_is_laxer(laxer: dict[str, Any]) -> None:
    """A receipt, grant and job digest name policies by digest: one that was slipped in is another policy."""
    mine, slipped = Policy.from_json(RULES), Policy.from_json({**RULES, **laxer})
    assert mine.digest != slipped.digest
    assert {change.direction for change in diff(mine, slipped)} == {"laxer"}


def test_lax_member_of_a_composition_is_seen_by_lint_and_diff(accept: Callable[..., AttestationResult]) -> None:
    lax = {**RULES, "name": "z", "measurements": {"sgx": [OTHER]}, "allow": ["simulated", "debug"]}
    mine, slipped = ({"name": "c", "any_of": members} for members in ([RULES], [RULES, lax]))
    assert _check(accept, mine, measurement=OTHER) == "any-of"
    assert accept(slipped, measurement=OTHER, fault=None)
    before, after = Policy.from_json(mine), Policy.from_json(slipped)
    assert before.digest != after.digest
    assert [(change.direction, change.field) for change in diff(before, after)] == [("laxer", "z")]
    assert ("debug-allowed", "c/z") in {(finding.code, finding.policy) for finding in lint(after, NOW.date())}


def test_member_that_accepts_does_not_outvote_one_that_refuses(accept: Callable[..., AttestationResult]) -> None:
    """An owner's policy is one member of two: the other's switch and measurements do not reach into it."""
    lax = {**RULES, "name": "lax", "measurements": {"sgx": [SGX, OTHER]}, "allow": ["simulated", "debug"]}
    both = {"name": "c", "all_of": [RULES, lax]}
    assert accept(both)
    assert accept(lax, measurement=OTHER)
    assert _check(accept, both, measurement=OTHER) == "p/measurement"
    assert accept(lax, fault=Fault.DEBUG)
    assert _check(accept, both, fault=Fault.DEBUG) == "p/debug"


# --- signers ----------------------------------------------------------------------------------------------------------


def test_old_version_of_signed_software_is_refused(accept: Callable[..., AttestationResult]) -> None:
    """Everything that a key ever signed stays signed: the least version is what shuts the old ones out."""
    claims = accept(RULES).claims
    said = {"mrsigner": claims.signer, "isv_prod_id": claims.vendor["isv_prod_id"]}
    version = int(claims.vendor["isv_svn"])
    by_signer = {"name": "s", "allow": ["simulated"], "min_tcb_date": "2020-01-01"}
    assert accept({**by_signer, "signers": {"sgx": [{**said, "min_isv_svn": version}]}}, measurement=OTHER)
    assert _check(accept, {**by_signer, "signers": {"sgx": [{**said, "min_isv_svn": version + 1}]}}) == "signer"


def test_policy_that_trusts_a_signer_alone_is_refused_by_lint() -> None:
    signer = {"sgx": [{"mrsigner": "51" * 32, "isv_prod_id": 0, "min_isv_svn": 0}]}
    alone = {**RULES, "measurements": {}, "signers": signer}
    assert "signer-only" in {finding.code for finding in lint(Policy.from_json(alone), NOW.date()) if finding.severity == "error"}
    assert "signer-only" not in {finding.code for finding in lint(Policy.from_json({**RULES, "signers": signer}), NOW.date())}


# --- grace, time and place --------------------------------------------------------------------------------------------


def _grace(end: date | None) -> dict[str, Any]:
    until = {"statuses_until": {"OutOfDate": end.isoformat()}} if end else {}
    advisory = {"id": "INTEL-SA-00000", "until": end.isoformat()} if end else "INTEL-SA-00000"
    return {**RULES, "statuses": ["UpToDate", "OutOfDate"], "advisories_allowed": [advisory], **until}


def test_out_of_date_platform_is_refused_when_its_grace_is_over(accept: Callable[..., AttestationResult]) -> None:
    last = NOW.date()
    assert accept(_grace(last), fault=Fault.OUT_OF_DATE)
    late = NOW + timedelta(days=1)
    assert accept(_grace(None), fault=Fault.OUT_OF_DATE, now=late)
    assert _check(accept, _grace(last), fault=Fault.OUT_OF_DATE, now=late) == "tcb-status"


def test_old_firmware_is_refused_however_it_is_rated(accept: Callable[..., AttestationResult]) -> None:
    """Collateral that a host held back still rates its old platform UpToDate: the date is what that does not move."""
    dated = accept(RULES).claims.tcb_date[:10]
    assert accept({**RULES, "min_tcb_date": dated})
    later = (date.fromisoformat(dated) + timedelta(days=1)).isoformat()
    assert _check(accept, {**RULES, "min_tcb_date": later}) == "tcb-date"


def test_genuine_node_on_a_machine_that_is_not_listed_is_refused(accept: Callable[..., AttestationResult]) -> None:
    machine = accept(RULES).claims.vendor["ppid_sha384"]
    assert accept({**RULES, "platforms": {"ppid": [machine]}})
    assert _check(accept, {**RULES, "platforms": {"ppid": ["ab" * 16]}}) == "ppid"


def test_node_of_another_job_is_refused_by_a_policy_for_named_jobs(accept: Callable[..., AttestationResult]) -> None:
    assert accept(RULES, job=OTHER_JOB)
    assert accept({**RULES, "jobs": [JOB]})
    assert _check(accept, {**RULES, "jobs": [JOB]}, job=OTHER_JOB) == "job"


# --- reading ----------------------------------------------------------------------------------------------------------


def test_policy_that_is_nested_or_wide_without_end_is_refused_before_it_is_read() -> None:
    deep: dict[str, Any] = RULES
    for _ in range(100_000):
        deep = {"name": "c", "any_of": [deep]}
    wide = {"name": "c", "any_of": [{**RULES, "name": f"r{number}"} for number in range(100_000)]}
    for data in (deep, wide):
        with pytest.raises(PolicyError, match="at most"):
            Policy.from_json(data)
