import json
import pickle
from collections.abc import Callable
from datetime import timedelta

import pytest

from confide.attest.binding import SessionBinding
from confide.attest.insecure import Fault
from confide.attest.policy import AttestationResult, Policy, Rules, appraise
from confide.attest.verify import VerifiedEvidence
from confide.errors import AppraisalError, BindingError, PolicyError
from confide.ids import Nonce, Role, Tee

SGX, TDX = "5a" * 32, "5a" * 48
GOOD = {"name": "demo", "measurements": {"sgx": [SGX], "tdx": [TDX]}, "allow": ["simulated"]}


@pytest.fixture
def policy() -> Policy:
    return Policy.from_json(GOOD)


@pytest.fixture
def appraised(verifier, make_evidence, context, now) -> Callable[..., AttestationResult]:
    def run(policy, *, tee=Tee.TDX, fault=None, role=Role.WORKER, moment=None, verified_binding=None):
        binding = SessionBinding(role, bytes(32), Nonce(b"n" * 32), b"spki", context)
        evidence = make_evidence(tee, report_data=binding.report_data, fault=fault)
        return appraise(verifier.verify(evidence, now), policy, verified_binding or binding, now=moment or now)

    return run


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
def test_accepted_evidence_leaves_a_result(appraised, policy, context, now, tee) -> None:
    result = appraised(policy, tee=tee)
    assert result.claims.measurement == (SGX if tee is Tee.SGX else TDX)
    assert result.policy_digest == policy.digest
    assert (result.role, result.context, result.appraised_at) == (Role.WORKER, context, now)
    assert json.loads(json.dumps(result.to_json()))["claims"]["simulated"] is True


def test_results_are_made_by_verify_and_appraise_only(appraised, policy, verifier, make_evidence, now) -> None:
    result = appraised(policy)
    verified = verifier.verify(make_evidence(), now)
    with pytest.raises(TypeError):
        AttestationResult(result.claims, policy.digest, Role.WORKER, result.context, result.spki_digest, now)
    with pytest.raises(TypeError):
        VerifiedEvidence(verified.claims, verified.evidence, verified.collateral, now)
    for value in (result, verified):
        with pytest.raises(TypeError):
            pickle.dumps(value)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"measurements": {"sgx": [SGX]}}, "tee"),
        ({"measurements": {"tdx": ["00" * 47 + "01"]}}, "measurement"),
        ({"registers": {"rtmr1": ["aa" * 48], "rtmr2": ["aa" * 48]}}, "rtmr1"),
        ({"registers": {"rtmr1": ["aa" * 48], "rtmr2": ["aa" * 48]}, "allow": []}, "simulated"),
        ({"statuses": ["SWHardeningNeeded"]}, "tcb-status"),
        ({"min_tcb_eval": 21}, "tcb-eval"),
        ({"roles": ["driver"]}, "role"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_check_refuses_and_says_which_it_was(appraised, change, check) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraised(Policy.from_json({**GOOD, **change}))
    assert caught.value.facts["check"] == check
    assert caught.value.facts["expected"] != caught.value.facts["got"]


def test_out_of_date_platform_is_refused_by_default(appraised, policy) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraised(policy, fault=Fault.OUT_OF_DATE)
    assert caught.value.facts["check"] == "tcb-status"


def test_out_of_date_platform_needs_its_advisories_allowed_as_well(appraised) -> None:
    lenient = {**GOOD, "statuses": ["UpToDate", "OutOfDate"], "min_tcb_eval": 20}
    with pytest.raises(AppraisalError) as caught:
        appraised(Policy.from_json(lenient), fault=Fault.OUT_OF_DATE)
    assert caught.value.facts["check"] == "advisories"
    result = appraised(Policy.from_json({**lenient, "advisories_allowed": ["INTEL-SA-00000"]}), fault=Fault.OUT_OF_DATE)
    assert result.claims.tcb_status == "OutOfDate"


def test_wrong_measurement_is_refused(appraised, policy) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraised(policy, fault=Fault.WRONG_MEASUREMENT)
    assert caught.value.facts["check"] == "measurement"


def test_evidence_whose_collateral_went_stale_since_is_refused(appraised, policy, now) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraised(policy, moment=now + timedelta(days=31))
    assert caught.value.facts["check"] == "collateral"


def test_binding_is_checked_before_the_policy(appraised, policy, context) -> None:
    other = SessionBinding(Role.WORKER, b"e" * 32, Nonce(b"n" * 32), b"spki", context)
    with pytest.raises(BindingError):
        appraised(policy, fault=Fault.WRONG_MEASUREMENT, verified_binding=other)


def test_explain_lists_every_check(verifier, make_evidence, policy, now) -> None:
    verified = verifier.verify(make_evidence(fault=Fault.WRONG_MEASUREMENT), now)
    checks = {check.name: check for check in policy.explain(verified, role=Role.DRIVER, now=now)}
    names = ["tee", "simulated", "debug", "measurement", "no-sept-ve-disable", "migratable", "service-td"]
    names += ["tcb-status", "tcb-eval", "advisories", "collateral", "role"]
    assert list(checks) == names
    assert [name for name in names if not checks[name].ok] == ["measurement"]
    assert "role" not in {check.name for check in policy.explain(verified, now=now)}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": "empty"},
        {"name": "empty", "measurements": {}},
        {**GOOD, "measurements": {"tdx": []}},
        {**GOOD, "tees": ["sgx", "tdx"], "measurements": {"tdx": [TDX]}},
        {**GOOD, "tees": [], "measurements": {}},
        {**GOOD, "measurements": {"tdx": [SGX]}},
        {**GOOD, "measurements": {"tdx": [TDX, SGX], "sgx": [SGX]}},
        {**GOOD, "measurements": {"tdx": [TDX.upper()]}},
        {**GOOD, "measurements": {"tdx": ["00" * 48]}},
        {**GOOD, "measurements": {"sev": [TDX]}},
        {**GOOD, "statuses": []},
        {**GOOD, "statuses": ["Revoked"]},
        {**GOOD, "statuses": ["OutOfDate"]},
        {**GOOD, "statuses": ["TDRelaunchAdvised"]},
        {**GOOD, "min_tcb_eval": 0},
        {**GOOD, "roles": []},
        {**GOOD, "roles": ["client"]},
        {**GOOD, "allow": ["everything"]},
        {**GOOD, "advisories_allowed": ["all"]},
        {**GOOD, "registers": {"rtmr1": []}},
        {**GOOD, "registers": {"rtmr9": [TDX]}},
        {**GOOD, "allow": []},
        {**GOOD, "signers": [SGX]},
        {**GOOD, "format": "confide-policy-v2"},
        {**GOOD, "name": "../demo"},
        [],
        None,
    ],
    ids=str,
)
def test_policy_that_asks_too_little_or_is_misspelt_cannot_be_built(data) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json(data)


SNP = {"name": "amd", "measurements": {"snp": [TDX]}, "min_tcb": {"Genoa": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}}}


def test_policy_for_snp_is_read() -> None:
    policy = Policy.from_json(SNP)
    assert (policy.tees, policy.vmpls) == ((Tee.SNP,), (0,))
    turin = {**SNP["min_tcb"]["Genoa"], "fmc": 1}
    assert Policy.from_json({**SNP, "min_tcb": {**SNP["min_tcb"], "Turin": turin}}).digest != policy.digest


@pytest.mark.parametrize(
    "change",
    [
        {"min_tcb": {}},
        {"min_tcb": {"Rome": SNP["min_tcb"]["Genoa"]}},
        {"min_tcb": {"Genoa": {}}},
        {"min_tcb": {"Genoa": {"snp": 2}}},
        {"min_tcb": {"Genoa": {**SNP["min_tcb"]["Genoa"], "fmc": 1}}},
        {"min_tcb": {"Genoa": {**SNP["min_tcb"]["Genoa"], "snp": 256}}},
        {"min_tcb": {"Turin": SNP["min_tcb"]["Genoa"]}},
        {"vmpls": []},
        {"vmpls": [4]},
        {"measurements": {"snp": [SGX]}},
        {"measurements": {"sgx": [SGX]}},
    ],
    ids=str,
)
def test_policy_for_snp_that_asks_too_little_cannot_be_built(change) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json({**SNP, **change})


def test_registers_without_tdx_are_refused() -> None:
    with pytest.raises(PolicyError):
        Policy.from_json({**GOOD, "measurements": {"sgx": [SGX]}, "registers": {"rtmr1": [TDX]}})


TPM = {"measurements": {"tpm": [SGX]}, "registers": {"pcr7": [SGX]}, "allow": ["tpm-no-memory-protection"]}


@pytest.mark.parametrize("field", ["fmspc", "ppid", "piid", "chip_id", "tpm_key"])
def test_machines_of_a_kind_that_is_not_accepted_cannot_be_listed(field) -> None:
    """The list would be held against nothing, and read as if it narrowed what is accepted."""
    own = {"fmspc": "sgx", "ppid": "sgx", "piid": "sgx", "chip_id": "snp", "tpm_key": "tpm"}[field]
    value = {"fmspc": "00906ed50000", "chip_id": "ab" * 64, "tpm_key": "000b" + "ab" * 32}.get(field, "ab" * 16)
    policies = {"sgx": {"measurements": {"sgx": [SGX]}}, "snp": SNP, "tpm": TPM}
    for kind, policy in policies.items():
        listing = {"name": "p", **policy, "platforms": {field: [value]}}
        if kind == own:
            assert Policy.from_json(listing).tees == (Tee(kind),)
        else:
            with pytest.raises(PolicyError, match="nothing checks"):
                Policy.from_json(listing)


def test_policy_may_accept_every_kind_of_tee() -> None:
    every = {**GOOD["measurements"], **SNP["measurements"], **TPM["measurements"]}
    registers = {"rtmr1": [TDX], "rtmr2": [TDX], **TPM["registers"]}
    policy = Policy.from_json(
        {"name": "p", "measurements": every, "registers": registers, "min_tcb": SNP["min_tcb"], "allow": TPM["allow"]}
    )
    assert policy.tees == (Tee.SGX, Tee.SNP, Tee.TDX, Tee.TPM)


def test_every_status_may_have_a_last_day() -> None:
    assert Policy.from_json({**GOOD, "statuses_until": {"UpToDate": "2031-01-01"}}).to_json()["statuses_until"] == {
        "UpToDate": "2031-01-01"
    }


@pytest.mark.parametrize(
    "change",
    [
        {"allow": []},
        {"allow": ["tpm-no-memory-protection", "simulated"], "registers": {}},
        {"registers": {"pcr7": [TDX]}},
        {"registers": {"pcr24": [SGX]}},
        {"registers": {"rtmr1": [TDX]}},
        {"measurements": {"sgx": [SGX]}},
        {"measurements": {"sgx": [SGX]}, "registers": {}},
        {"measurements": {"tpm": [TDX]}},
    ],
    ids=str,
)
def test_policy_for_a_tpm_that_asks_too_little_cannot_be_built(change) -> None:
    assert Policy.from_json({"name": "p", **TPM}).tees == (Tee.TPM,)
    with pytest.raises(PolicyError):
        Policy.from_json({"name": "p", **TPM, **change})


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"vmpls": [4]}, "vmpls.0: Input should be less than or equal to 3", "vmpls.0"),
        ({"name": "../demo"}, "name: not a valid policy name", "name"),
        ({"roles": []}, "a policy must name", None),
    ],
)
def test_refusal_of_a_policy_names_the_field(change, message, field) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_json({**GOOD, **change})
    assert caught.value.message.startswith(message)
    assert caught.value.facts["field"] == field


def test_every_way_to_build_a_policy_checks_it() -> None:
    for build in (lambda: Rules(name="x", measurements={}), lambda: Rules.model_validate({"name": "x", "measurements": {}})):
        with pytest.raises(PolicyError):
            build()


def test_policy_for_real_tds_pins_their_registers() -> None:
    real = {**GOOD, "measurements": {"tdx": [TDX]}, "allow": [], "registers": {"rtmr1": [TDX], "rtmr2": [TDX]}}
    assert Policy.from_json(real).tees == (Tee.TDX,)


def test_same_policy_has_the_same_digest_however_it_is_written() -> None:
    one = Policy.from_json({**GOOD, "roles": ["worker", "driver"], "measurements": {"tdx": [TDX, "ab" * 48], "sgx": [SGX]}})
    two = Policy.from_json({**GOOD, "roles": ["driver", "worker", "driver"], "measurements": {"sgx": [SGX], "tdx": ["ab" * 48, TDX, TDX]}})
    assert one.digest == two.digest
    assert Policy.from_json(one.to_json()).digest == one.digest
    assert Policy.from_json({**GOOD, "name": "other"}).digest != Policy.from_json(GOOD).digest


def test_policy_is_frozen(policy) -> None:
    with pytest.raises(Exception, match="frozen"):
        policy.allow = ("simulated",)


def test_policy_files_are_read(tmp_path, policy) -> None:
    (tmp_path / "p.json").write_text(json.dumps(GOOD))
    (tmp_path / "p.toml").write_text(f'name = "demo"\nallow = ["simulated"]\n[measurements]\nsgx = ["{SGX}"]\ntdx = ["{TDX}"]\n')
    assert Policy.load(tmp_path / "p.json") == Policy.load(tmp_path / "p.toml") == policy


@pytest.mark.parametrize(("name", "text"), [("p.json", "{"), ("p.json", "[]"), ("p.toml", "= 1"), ("p.toml", "\udcff")])
def test_file_that_is_no_policy_is_refused(tmp_path, name, text) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PolicyError):
        Policy.load(tmp_path / name)


def test_missing_policy_file_is_refused(tmp_path) -> None:
    with pytest.raises(PolicyError, match="cannot read"):
        Policy.load(tmp_path / "none.toml")
