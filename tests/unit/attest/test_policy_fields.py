"""Each field of a policy accepts what it names, and refuses the next thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from confide.attest import verify as verify_module
from confide.attest.insecure import Fault
from confide.attest.policy import Policy
from confide.attest.policy_checks import _OF_TEE, Check
from confide.attest.verify import VerifiedEvidence
from confide.canonical import sha384_hex
from confide.errors import PolicyError
from confide.ids import JobDigest, Role, Tee

SGX, TDX, JOB = "5a" * 32, "5a" * 48, JobDigest("ab" * 48)
GOOD: dict[str, Any] = {"name": "demo", "measurements": {"sgx": [SGX], "tdx": [TDX]}, "allow": ["simulated"]}
SNP: dict[str, Any] = {
    "name": "amd",
    "measurements": {"snp": [TDX]},
    "min_tcb": {"Genoa": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}},
}
ID_BLOCK = {"id_key_digest": "1d" * 48, "family_id": "fa" * 16, "image_id": "1a" * 16, "min_guest_svn": 4}


@pytest.fixture
def explained(verifier, make_evidence, now) -> Callable[..., list[Check]]:
    """The checks of evidence whose claims are changed as said (the signature is none of these checks' business)."""

    def run(
        policy: dict[str, Any],
        *,
        tee: Tee = Tee.SGX,
        fault: Fault | None = None,
        moment: Any = None,
        vendor: Any = None,
        job: Any = JOB,
        **claims: Any,
    ) -> list[Check]:
        verified = verifier.verify(make_evidence(tee if tee is not Tee.SNP else Tee.TDX, fault=fault), now)
        said = replace(verified.claims, tee=tee, **claims)
        said = replace(said, vendor={**said.vendor, **(vendor or {})})
        shown = VerifiedEvidence(said, verified.evidence, verified.collateral, now, token=verify_module._TOKEN)
        return Policy.from_json(policy).explain(shown, role=Role.WORKER, job=job, now=moment or now)

    return run


@pytest.fixture
def refusals(explained) -> Callable[..., list[str]]:
    """Names of the checks that refuse such evidence."""
    return lambda policy, **changes: [check.name for check in explained(policy, **changes) if not check.ok]


def _sgx(**change: Any) -> dict[str, Any]:
    return {"name": "sgx", "allow": ["simulated"], "measurements": {"sgx": [SGX]}, **change}


SIGNER = {"mrsigner": "51" * 32, "isv_prod_id": 7, "min_isv_svn": 3}


@pytest.mark.parametrize(
    ("vendor", "signer", "refused"),
    [
        ({"isv_prod_id": 7, "isv_svn": 3}, "51" * 32, []),
        ({"isv_prod_id": 7, "isv_svn": 9}, "51" * 32, []),
        ({"isv_prod_id": 7, "isv_svn": 2}, "51" * 32, ["signer"]),
        ({"isv_prod_id": 8, "isv_svn": 3}, "51" * 32, ["signer"]),
        ({"isv_prod_id": 7, "isv_svn": 3}, "52" * 32, ["signer"]),
        ({"isv_prod_id": 7, "isv_svn": None}, "51" * 32, ["signer"]),
        ({"isv_prod_id": 7, "isv_svn": True}, "51" * 32, ["signer"]),
    ],
)
def test_signed_enclave_needs_the_key_the_product_and_the_least_version(refusals, vendor, signer, refused) -> None:
    policy = {"name": "s", "allow": ["simulated"], "signers": {"sgx": [SIGNER]}}
    assert refusals(policy, vendor=vendor, signer=signer, measurement="77" * 32) == refused


@pytest.mark.parametrize("svn", [None, True, "3"])
def test_version_that_is_not_stated_is_not_version_nought(refusals, svn) -> None:
    policy = {"name": "s", "allow": ["simulated"], "signers": {"sgx": [{**SIGNER, "min_isv_svn": 0}]}}
    assert refusals(policy, vendor={"isv_prod_id": 7, "isv_svn": svn}, signer="51" * 32) == ["signer"]
    assert refusals(policy, vendor={"isv_prod_id": 7, "isv_svn": 0}, signer="51" * 32) == []


def test_one_signer_of_several_is_enough(refusals) -> None:
    policy = {"name": "s", "allow": ["simulated"], "signers": {"sgx": [SIGNER, {**SIGNER, "mrsigner": "52" * 32}]}}
    good = {"isv_prod_id": 7, "isv_svn": 3}
    assert [refusals(policy, vendor=good, signer=f"{key}" * 32) for key in (51, 52, 53)] == [[], [], ["signer"]]


def test_signer_beside_measurements_narrows_and_never_widens(refusals) -> None:
    both = _sgx(signers={"sgx": [SIGNER]})
    good = {"vendor": {"isv_prod_id": 7, "isv_svn": 3}, "signer": "51" * 32}
    assert refusals(both, **good) == []
    assert refusals(both, measurement="77" * 32, **good) == ["measurement"]
    assert refusals(both, vendor=good["vendor"], signer="52" * 32) == ["signer"]


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, []),
        ({"signer": "1e" * 48}, ["signer"]),
        ({"vendor": {"family_id": "fb" * 16}}, ["signer"]),
        ({"vendor": {"image_id": "fb" * 16}}, ["signer"]),
        ({"vendor": {"guest_svn": 3}}, ["signer"]),
        ({"vendor": {"author_key_digest": ""}}, ["signer"]),
    ],
)
def test_signed_guest_needs_key_author_family_image_and_svn(refusals, change, refused) -> None:
    policy = {**SNP, "measurements": {}, "signers": {"snp": [{**ID_BLOCK, "author_key_digest": "a0" * 48}]}, "allow": ["simulated"]}
    said = {"family_id": "fa" * 16, "image_id": "1a" * 16, "guest_svn": 4, "author_key_digest": "a0" * 48}
    said |= {"vmpl": 0, "migration_agent": False, "revocation_list": True, **change.get("vendor", {})}
    tcb = {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}
    assert refusals(policy, tee=Tee.SNP, vendor=said, signer=change.get("signer", "1d" * 48), platform="Genoa", tcb=tcb) == refused


AMD_GUEST: dict[str, Any] = {
    "tee": Tee.SNP,
    "platform": "Genoa",
    "tcb": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3},
    "vendor": {"vmpl": 0, "migration_agent": False, "revocation_list": True},
}


@pytest.mark.parametrize("author", ["", "a0" * 48])
def test_guest_may_have_any_author_where_none_is_named(refusals, author) -> None:
    policy = {**SNP, "measurements": {}, "signers": {"snp": [ID_BLOCK]}, "allow": ["simulated"]}
    said = {"family_id": "fa" * 16, "image_id": "1a" * 16, "guest_svn": 4, "author_key_digest": author}
    assert refusals(policy, **{**AMD_GUEST, "vendor": {**AMD_GUEST["vendor"], **said}}, signer="1d" * 48) == []


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({}, []),
        ({"platform": "Milan"}, ["product", "tcb"]),
        ({"tcb": {"bootloader": 1, "snp": 2, "microcode": 3}}, ["tcb"]),
        ({"tcb": {**AMD_GUEST["tcb"], "snp": 1}}, ["tcb"]),
        ({"tcb": {}}, ["tcb"]),
    ],
)
def test_guest_has_each_component_of_its_products_least_tcb(refusals, claims, refused) -> None:
    """A product that has no least TCB has none that is enough, and a component that is not stated is no component of version 0."""
    assert refusals({**SNP, "allow": ["simulated"]}, **{**AMD_GUEST, **claims}) == refused


@pytest.mark.parametrize(
    ("got", "refused"),
    [("2024-03-13", []), ("2024-03-13T00:00:00Z", []), ("2024-03-12T23:59:59Z", ["tcb-date"]), ("", ["tcb-date"])],
)
def test_least_tcb_date(refusals, got, refused) -> None:
    assert refusals(_sgx(min_tcb_date="2024-03-13"), tcb_date=got) == refused


def test_tcb_date_is_in_the_claims_of_simulated_evidence(verifier, make_evidence, now) -> None:
    assert verifier.verify(make_evidence(), now).claims.tcb_date.endswith("T00:00:00Z")


def test_status_is_accepted_through_its_last_day(refusals, now) -> None:
    grace = _sgx(statuses=["UpToDate", "OutOfDate"], statuses_until={"OutOfDate": now.date().isoformat()}, min_tcb_date="2020-01-01")
    late = _sgx(
        statuses=["UpToDate", "OutOfDate"], statuses_until={"OutOfDate": (now.date() - timedelta(1)).isoformat()}, min_tcb_date="2020-01-01"
    )
    assert refusals(grace, tcb_status="OutOfDate") == []
    assert refusals(late, tcb_status="OutOfDate") == ["tcb-status"]
    assert refusals(late) == []


def test_advisory_is_accepted_through_its_last_day(refusals, now) -> None:
    for days, refused in ((0, []), (-1, ["advisories"])):
        until = (now.date() + timedelta(days)).isoformat()
        policy = _sgx(advisories_allowed=["INTEL-SA-00001", {"id": "INTEL-SA-00002", "until": until}])
        assert refusals(policy, advisory_ids=("INTEL-SA-00001", "INTEL-SA-00002")) == refused
        assert refusals(policy, advisory_ids=("INTEL-SA-00001",)) == []


@pytest.mark.parametrize(("field", "claim", "size"), [("ppid", "ppid_sha384", 16), ("piid", "piid_sha384", 16)])
def test_machine_must_be_on_the_list(refusals, field, claim, size) -> None:
    raw = bytes(range(1, size + 1))
    for written in (raw.hex(), sha384_hex(raw)):
        policy = _sgx(platforms={field: [written]})
        assert refusals(policy, vendor={claim: sha384_hex(raw)}) == []
        assert refusals(policy, vendor={claim: sha384_hex(raw[::-1])}) == [field]
        assert refusals(policy, vendor={claim: ""}) == [field]
    assert raw.hex() not in str(Policy.from_json(policy).to_json())


def test_platform_model_must_be_on_the_list(refusals) -> None:
    policy = _sgx(platforms={"fmspc": ["00906ed50000"]})
    assert refusals(policy, platform="00906ed50000") == []
    assert refusals(policy, platform="00606a000000") == ["fmspc"]


def test_chip_must_be_on_the_list(refusals) -> None:
    chip = bytes(range(64))
    policy = {**SNP, "platforms": {"chip_id": [chip.hex()]}, "allow": ["simulated"]}
    said = {"vmpl": 0, "migration_agent": False, "revocation_list": True}
    more = {"platform": "Genoa", "tcb": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}}
    assert refusals(policy, tee=Tee.SNP, vendor={**said, "chip_id_sha384": sha384_hex(chip)}, **more) == []
    assert refusals(policy, tee=Tee.SNP, vendor={**said, "chip_id_sha384": ""}, **more) == ["chip-id"]


@pytest.mark.parametrize("register", ["mr_config_id", "mr_owner", "mr_owner_config", "rtmr3"])
def test_every_value_of_a_td_can_be_pinned(refusals, register) -> None:
    policy = {"name": "td", "allow": ["simulated"], "measurements": {"tdx": [TDX]}, "registers": {register: ["77" * 48]}}
    assert refusals(policy, tee=Tee.TDX) == [register]
    where = {"registers": {"rtmr3": "77" * 48}} if register == "rtmr3" else {"vendor": {register: "77" * 48}}
    assert refusals(policy, tee=Tee.TDX, **where) == []


def test_collateral_must_be_as_new_as_the_policy_says(refusals, verifier, make_evidence, now) -> None:
    signed = verifier.verify(make_evidence(Tee.SGX), now).collateral.signed_since
    policy = _sgx(max_collateral_age_days=2)
    assert refusals(policy, moment=signed) == []
    assert refusals(policy, moment=signed - timedelta(seconds=1)) == ["collateral-age"]
    assert refusals(policy, moment=signed + timedelta(days=2)) == []
    assert refusals(policy, moment=signed + timedelta(days=2, seconds=1)) == ["collateral-age"]


def test_collateral_is_good_until_the_second_that_it_says(refusals, verifier, make_evidence, now) -> None:
    ends = verifier.verify(make_evidence(Tee.SGX), now).claims.epoch.stale_from
    assert refusals(_sgx(), moment=ends - timedelta(seconds=1)) == []
    assert refusals(_sgx(), moment=ends) == ["collateral"]


def test_evidence_must_have_been_verified_lately(refusals, now) -> None:
    policy = _sgx(max_evidence_age_s=60)
    assert refusals(policy, moment=now) == []
    assert refusals(policy, moment=now + timedelta(seconds=60)) == []
    assert refusals(policy, moment=now + timedelta(seconds=61)) == ["evidence-age"]
    assert refusals(policy, moment=now - timedelta(seconds=1)) == ["evidence-age"]


def test_policy_for_named_jobs_refuses_others_and_the_unknown(refusals) -> None:
    policy = _sgx(jobs=[JOB])
    assert refusals(policy) == []
    assert refusals(policy, job=JobDigest("cd" * 48)) == ["job"]
    assert refusals(policy, job=None) == ["job"]


ONE_SIGNER = {"name": "s", "allow": ["simulated"], "signers": {"sgx": [SIGNER]}}
GUESTS = {**SNP, "measurements": {}, "allow": ["simulated", "snp-no-revocation-list"]}
GUEST = {**AMD_GUEST["vendor"], "family_id": "fa" * 16, "image_id": "1a" * 16, "guest_svn": 4}


@pytest.mark.parametrize(
    ("policy", "changes", "check", "expected", "got"),
    [
        (ONE_SIGNER, {"vendor": {"isv_prod_id": 8, "isv_svn": 2}, "signer": "52" * 32}, "signer",
         f"{'51' * 32} product 7 from svn 3", f"{'52' * 32} product 8 svn 2"),
        ({**GUESTS, "signers": {"snp": [ID_BLOCK]}}, {**AMD_GUEST, "vendor": GUEST, "signer": "1e" * 48}, "signer",
         f"{'1d' * 48} family {'fa' * 16} image {'1a' * 16} from svn 4", f"{'1e' * 48} family {'fa' * 16} image {'1a' * 16} svn 4"),
        ({**GUESTS, "signers": {"snp": [{**ID_BLOCK, "author_key_digest": "a0" * 48}]}},
         {**AMD_GUEST, "vendor": {**GUEST, "author_key_digest": "a1" * 48}, "signer": "1d" * 48}, "signer",
         f"{'1d' * 48} by author {'a0' * 48} family {'fa' * 16} image {'1a' * 16} from svn 4",
         f"{'1d' * 48} by author {'a1' * 48} family {'fa' * 16} image {'1a' * 16} svn 4"),
        (_sgx(advisories_allowed=["INTEL-SA-00001", {"id": "INTEL-SA-00002", "until": "2031-01-01"}]), {}, "advisories",
         "INTEL-SA-00001, INTEL-SA-00002 until 2031-01-01", "none"),
        (_sgx(min_tcb_date="2024-03-13"), {"tcb_date": ""}, "tcb-date", "at least 2024-03-13", "none"),
        (_sgx(min_tcb_date="2024-03-13"), {"tcb_date": "2024-03-12T00:00:00Z"}, "tcb-date", "at least 2024-03-13", "2024-03-12T00:00:00Z"),
        (_sgx(), {}, "tcb-eval", "at least 0", "20"),
        (_sgx(min_tcb_eval=21), {}, "tcb-eval", "at least 21", "20"),
        (_sgx(platforms={"ppid": ["ab" * 48]}), {"vendor": {"ppid_sha384": None}}, "ppid", "ab" * 48, ""),
        ({**SNP, "allow": ["simulated"]}, {**AMD_GUEST, "tcb": {}}, "tcb", "at least bootloader 1, microcode 3, snp 2, tee 0", "none"),
        (_sgx(jobs=[JOB]), {"job": None}, "job", JOB, "unknown outside a session"),
        (_sgx(), {"simulated": True}, "simulated", "allowed", "yes"),
        (_sgx(), {"debug": False}, "debug", "no", "no"),
    ],
)  # fmt: skip
def test_explanation_says_what_was_asked_and_what_was_found(explained, policy, changes, check, expected, got) -> None:  # noqa: PLR0917
    found = {one.name: one for one in explained(policy, **changes)}[check]
    assert (found.expected, found.got) == (expected, got)


def test_kind_of_tee_without_rules_is_refused(refusals, monkeypatch) -> None:
    monkeypatch.delitem(_OF_TEE, Tee.SGX)  # type: ignore[arg-type]
    assert refusals(_sgx()) == ["rules"]


@pytest.mark.parametrize(
    "change",
    [
        {"signers": {"tdx": [SIGNER]}},
        {"signers": {"sgx": [{"mrsigner": "51" * 32}]}},
        {"signers": {"sgx": [{**SIGNER, "isv_prod_id": 65536}]}},
        {"signers": {"sgx": [{**SIGNER, "min_isv_svn": "3"}]}},
        {"signers": {"sgx": [{**SIGNER, "mrsigner": "00" * 32}]}},
        {"signers": {"sgx": [{**SIGNER, "mrsigner": "51" * 31}]}},
        {"signers": {"sgx": [{**SIGNER, "mrsigner": "51" * 33}]}},
        {"signers": {"snp": [ID_BLOCK]}},
        {"statuses_until": {"OutOfDate": "2031-01-01"}},
        {"statuses_until": {"UpToDate": 1}},
        {"min_tcb_date": 1},
        {"min_tcb_date": "2031-1-1"},
        {"min_tcb_date": "2031-01-01T00:00:00Z"},
        {"advisories_allowed": ["INTEL-SA-00001", {"id": "INTEL-SA-00001", "until": "2031-01-01"}]},
        {"platforms": {"ppid": ["ab" * 15]}},
        {"platforms": {"ppid": ["ab" * 47]}},
        {"platforms": {"fmspc": ["ab" * 5]}},
        {"platforms": {"chip_id": ["ab" * 64]}},
        {"platforms": {"serial": ["ab"]}},
        {"max_collateral_age_days": 0},
        {"max_evidence_age_s": 0},
        {"jobs": ["ab" * 32]},
        {"registers": {"mr_owner": ["00" * 48]}},
    ],
    ids=str,
)
def test_field_of_another_form_is_refused(change) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json({**GOOD, **change})


@pytest.mark.parametrize(
    "written", ["20310101", "2031-W01-1", "2031-1-1", " 2031-01-01", "2031-01-01T00:00:00Z", "2031-02-30", 1924992000, None]
)
def test_day_is_written_in_one_way(written) -> None:
    with pytest.raises(PolicyError, match=r"2026-12-31|day is out of range"):
        Policy.from_json({**GOOD, "statuses_until": {"UpToDate": written}})


def test_same_fields_have_the_same_digest_in_any_order_and_form() -> None:
    one = Policy.from_json(
        {
            **GOOD,
            "min_tcb_date": "2024-03-13",
            "advisories_allowed": ["INTEL-SA-00002", {"id": "INTEL-SA-00001"}],
            "platforms": {"ppid": ["ab" * 16, "cd" * 16]},
        }
    )
    two = Policy.from_json(
        {
            **GOOD,
            "min_tcb_date": date(2024, 3, 13),
            "advisories_allowed": ["INTEL-SA-00001", "INTEL-SA-00002"],
            "platforms": {"ppid": ["cd" * 16, sha384_hex(bytes.fromhex("ab" * 16))]},
        }
    )
    assert one.digest == two.digest == Policy.from_json(one.to_json()).digest
