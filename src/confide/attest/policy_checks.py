"""Each rule of a policy beside what evidence says: expected, got, and whether they fit.  Decides nothing: ``appraisal`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from confide.attest.init_data import JOB_ALGORITHMS, held_init_data, job_init_data
from confide.attest.policy_values import SgxSigner, SnpSigner, Switch, day_of, tee_of_register
from confide.attest.tokens.verified import VerifiedToken
from confide.ids import Role, Tee

if TYPE_CHECKING:
    from confide.attest.claims import Claims
    from confide.attest.policy_rules import RuleFields
    from confide.attest.verify import VerifiedEvidence
    from confide.ids import JobDigest


_KNOWN_LISTS: Final = 1024
"""Lists whose texts are remembered: those of some hundred policies."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an explanation."""

    name: str
    expected: str
    got: str
    ok: bool


def checks_of(
    rules: RuleFields, verified: VerifiedEvidence | VerifiedToken, role: Role | None, job: JobDigest | None, now: datetime
) -> list[Check]:
    """Every rule with what was found.

    Outside a session ``role`` and ``job`` are None: there the role is left out, and a policy for named jobs has a line that fails, because
    whose job the evidence is of is not known.
    """
    claims = verified.claims
    checks = [
        *_issuer(rules, verified),
        _one_of("tee", rules.tees, claims.tee),
        _switch(rules, "simulated", "simulated", needed=claims.simulated),
        _switch(rules, "debug", "debug", needed=claims.debug),
        *_software(rules, claims),
    ]
    vendors = _OF_TEE.get(claims.tee)
    if vendors is None:
        checks.append(Check("rules", "a kind of TEE that policies have rules for", str(claims.tee), ok=False))
    else:
        checks += vendors(rules, claims, now)
    checks += [*_init_data(rules, claims, job), *_machine(rules, claims), *_freshness(rules, verified, now)]
    if rules.jobs:
        checks.append(_one_of("job", rules.jobs, job or "unknown outside a session"))
    return checks if role is None else [*checks, _one_of("role", rules.roles, role)]


def _issuer(rules: RuleFields, verified: VerifiedEvidence | VerifiedToken) -> list[Check]:
    """A token counts only where the policy names its issuer, entry and all."""
    if not isinstance(verified, VerifiedToken):
        return []
    names = tuple(issuer.issuer for issuer in rules.token_issuers)
    return [Check("token-issuer", _list(names), verified.issuer.issuer, ok=verified.issuer in rules.token_issuers)]


def _software(rules: RuleFields, claims: Claims) -> list[Check]:
    """What runs: the exact measurement, or who signed it, or both; at least one of the two is asked for."""
    signers = rules.signers.of(claims.tee)
    checks = []
    if claims.tee in rules.measurements or not signers:
        checks.append(_one_of("measurement", rules.measurements.get(claims.tee, ()), claims.measurement))
    if signers:
        got = _signed(claims)
        fits = any(_is_signed(signer, claims) for signer in signers)
        checks.append(Check("signer", " or ".join(map(_signer, signers)), got, ok=fits))
    return checks


def _is_signed(signer: SgxSigner | SnpSigner, claims: Claims) -> bool:
    vendor = claims.vendor
    if isinstance(signer, SgxSigner):
        named = (claims.signer, vendor.get("isv_prod_id")) == (signer.mrsigner, signer.isv_prod_id)
        return named and _number(vendor.get("isv_svn")) >= signer.min_isv_svn
    named = (claims.signer, vendor.get("family_id"), vendor.get("image_id")) == (signer.id_key_digest, signer.family_id, signer.image_id)
    author = signer.author_key_digest is None or vendor.get("author_key_digest") == signer.author_key_digest
    return named and author and _number(vendor.get("guest_svn")) >= signer.min_guest_svn


def _signer(signer: SgxSigner | SnpSigner) -> str:
    if isinstance(signer, SgxSigner):
        return f"{signer.mrsigner} product {signer.isv_prod_id} from svn {signer.min_isv_svn}"
    author = f" by author {signer.author_key_digest}" if signer.author_key_digest else ""
    return f"{signer.id_key_digest}{author} family {signer.family_id} image {signer.image_id} from svn {signer.min_guest_svn}"


def _signed(claims: Claims) -> str:
    vendor = claims.vendor
    if claims.tee is Tee.SGX:
        return f"{claims.signer} product {vendor.get('isv_prod_id')} svn {vendor.get('isv_svn')}"
    author = f" by author {vendor['author_key_digest']}" if vendor.get("author_key_digest") else ""
    return f"{claims.signer}{author} family {vendor.get('family_id')} image {vendor.get('image_id')} svn {vendor.get('guest_svn')}"


def _sgx(rules: RuleFields, claims: Claims, now: datetime) -> list[Check]:
    return _intel_tcb(rules, claims, now)


def _tdx(rules: RuleFields, claims: Claims, now: datetime) -> list[Check]:
    vendor = claims.vendor
    return [
        *_registers(rules, claims),
        _switch(rules, "no-sept-ve-disable", "tdx-no-sept-ve-disable", needed=vendor.get("sept_ve_disable") is not True),
        _switch(rules, "migratable", "tdx-migratable", needed=vendor.get("migratable") is not False),
        _switch(rules, "service-td", "tdx-service-td", needed=vendor.get("service_td") is not False),
        *_intel_tcb(rules, claims, now),
    ]


def _tpm(rules: RuleFields, claims: Claims, now: datetime) -> list[Check]:
    del now  # a TPM's numbers have no time
    return [*_registers(rules, claims), _switch(rules, "no-memory-protection", "tpm-no-memory-protection", needed=True)]


def _registers(rules: RuleFields, claims: Claims) -> list[Check]:
    """The registers of this kind of TEE; one that the evidence does not have is refused."""
    asked = {name: values for name, values in rules.registers.items() if tee_of_register(name) is claims.tee}
    return [_one_of(name, values, _register(claims, name)) for name, values in asked.items()]


def _register(claims: Claims, name: str) -> str:
    return claims.registers.get(name) or str(claims.vendor.get(name, ""))


def _init_data(rules: RuleFields, claims: Claims, job: JobDigest | None) -> list[Check]:
    """What the guest was started with: one of the given documents, or that of its job, which only a session tells."""
    held = held_init_data(claims)
    if rules.init_data:
        return [_one_of("init-data", rules.init_data.get(claims.tee, ()), held or "none")]
    if not rules.job_init_data:
        return []
    if job is None or claims.tee not in JOB_ALGORITHMS:
        return [Check("init-data", "of its job", held or "none", ok=False)]
    wanted = job_init_data(job, claims.tee, rules.job_init_data).bound_value(claims.tee).hex()
    return [Check("init-data", f"of job {job[:16]}: {wanted}", held or "none", ok=held == wanted)]


def _snp(rules: RuleFields, claims: Claims, now: datetime) -> list[Check]:
    del now  # AMD's numbers have no time
    vendor = claims.vendor
    minima = [parts for product, parts in rules.min_tcb.items() if product == claims.platform]
    minimum = {str(name): least for parts in minima for name, least in parts.items()}
    enough = bool(minimum) and all(claims.tcb.get(name, -1) >= least for name, least in minimum.items())
    listed = vendor.get("revocation_list") is True
    return [
        _one_of("product", tuple(rules.min_tcb), claims.platform),
        Check("tcb", f"at least {_parts(minimum)}", _parts(claims.tcb), ok=enough),
        Check("vmpl", _list(tuple(map(str, rules.vmpls))), str(vendor.get("vmpl")), ok=vendor.get("vmpl") in rules.vmpls),
        _switch(rules, "migration-agent", "snp-migration-agent", needed=vendor.get("migration_agent") is not False),
        _switch(rules, "revocation-list-missing", "snp-no-revocation-list", needed=not listed),
    ]


_OF_TEE: Final[Mapping[Tee, Callable[[RuleFields, Claims, datetime], list[Check]]]] = {
    Tee.SGX: _sgx,
    Tee.TDX: _tdx,
    Tee.SNP: _snp,
    Tee.TPM: _tpm,
}
"""A kind of TEE without an entry is refused."""


def _intel_tcb(rules: RuleFields, claims: Claims, now: datetime) -> list[Check]:
    today = day_of(now)
    ends = {str(status): end for status, end in rules.statuses_until.items()}
    in_force = [status for status in rules.statuses if status not in ends or today <= ends[status]]
    statuses = tuple(f"{status} until {ends[status]}" if status in ends else status for status in rules.statuses)
    advisories = tuple(f"{one.id} until {one.until}" if one.until else one.id for one in rules.advisories_allowed)
    foreign = set(claims.advisory_ids) - {one.id for one in rules.advisories_allowed if one.accepted(today)}
    minimum = rules.min_tcb_eval or 0
    checks = [
        Check("tcb-status", _list(statuses), claims.tcb_status, ok=claims.tcb_status in in_force),
        Check("tcb-eval", f"at least {minimum}", str(claims.tcb_eval), ok=claims.tcb_eval >= minimum),
        Check("advisories", _list(advisories), _list(claims.advisory_ids), ok=not foreign),
    ]
    if rules.min_tcb_date is not None:
        least = rules.min_tcb_date.isoformat()
        # A day and a time, both ISO 8601 in UTC, so that they compare as texts; a level without a date is older than all.
        checks.append(Check("tcb-date", f"at least {least}", claims.tcb_date or "none", ok=claims.tcb_date >= least))
    return checks


def _machine(rules: RuleFields, claims: Claims) -> list[Check]:
    """The platform's model and id, against the lists of its vendor that are not empty."""
    platforms, vendor = rules.platforms, claims.vendor
    if claims.tee is Tee.SNP:
        named = [("chip-id", platforms.chip_id, vendor.get("chip_id_sha384"))]
    elif claims.tee is Tee.TPM:
        named = [("tpm-key", platforms.tpm_key, vendor.get("key_name"))]
    else:
        named = [
            ("fmspc", platforms.fmspc, claims.platform),
            ("ppid", platforms.ppid, vendor.get("ppid_sha384")),
            ("piid", platforms.piid, vendor.get("piid_sha384")),
        ]
    return [_one_of(name, accepted, str(got or "")) for name, accepted, got in named if accepted]


def _freshness(rules: RuleFields, verified: VerifiedEvidence | VerifiedToken, now: datetime) -> list[Check]:
    epoch = verified.claims.epoch
    valid = f"valid at {now.isoformat(timespec='seconds')}"
    checks = [Check("collateral", valid, f"until {epoch.earliest_next_update}", ok=now < epoch.stale_from)]
    if rules.max_collateral_age_days is not None:
        signed = _signed_since(verified)
        age, most = (now - signed).total_seconds() / 86400, rules.max_collateral_age_days
        got = f"{age:.1f} days, of {signed.astimezone(UTC).isoformat(timespec='seconds')}"
        checks.append(Check("collateral-age", f"at most {most} days", got, ok=0 <= age <= most))
    if rules.max_evidence_age_s is not None:
        seconds, longest = (now - verified.verified_at).total_seconds(), rules.max_evidence_age_s
        checks.append(Check("evidence-age", f"at most {longest} s", f"{seconds:.0f} s", ok=0 <= seconds <= longest))
    return checks


def _signed_since(verified: VerifiedEvidence | VerifiedToken) -> datetime:
    """Which collateral an issuer of tokens used, it does not say: that is as old as can be."""
    return datetime.min.replace(tzinfo=UTC) if isinstance(verified, VerifiedToken) else verified.collateral.signed_since


def _switch(rules: RuleFields, name: str, switch: Switch, *, needed: bool) -> Check:
    """What must not be, unless the policy has the switch for it."""
    return Check(name, "allowed" if switch in rules.allow else "no", "yes" if needed else "no", ok=not needed or switch in rules.allow)


def _number(value: Any) -> int:
    return value if type(value) is int else -1


def _one_of(name: str, accepted: tuple[str, ...], got: str) -> Check:
    return Check(name, _list(accepted), str(got), ok=got in accepted)


def _parts(tcb: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(tcb.items())) or "none"


@lru_cache(_KNOWN_LISTS)
def _list(values: tuple[str, ...]) -> str:
    """The texts in one line.  A policy's lists are asked for at each release."""
    return ", ".join(map(str, values)) or "none"
