"""Is verified evidence what was asked for?  Policies are typed values that deny by default; appraisal leaves a result behind.

A policy that asks nothing, or too little, cannot be built.  Knows nothing of how evidence was verified or obtained.
"""

from __future__ import annotations

import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from confide.attest.amd_certs import Product
from confide.attest.binding import SessionBinding
from confide.attest.claims import Claims
from confide.attest.evidence import NodeContext
from confide.attest.verify import VerifiedEvidence
from confide.canonical import Json, digest_of, parse_object
from confide.errors import AppraisalError, BindingError, ParseError, PolicyError, UsageError
from confide.ids import Role, SpkiDigest, Tee, check_name

_HEX_CHARACTERS = {Tee.SGX: 64, Tee.TDX: 96, Tee.SNP: 96}
"""Length of MRENCLAVE, MRTD and SNP's MEASUREMENT in hex."""
_ADVISORY = re.compile(r"INTEL-SA-[0-9]{5}")

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]
"""Intel's TCB statuses without ``Revoked``, which no policy can accept."""
_OLD = {"OutOfDate", "OutOfDateConfigurationNeeded", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"}

Switch = Literal[
    "simulated",
    "debug",
    "tdx-no-sept-ve-disable",
    "tdx-migratable",
    "tdx-service-td",
    "snp-migration-agent",
    "snp-no-revocation-list",
]
"""Named exceptions, each of which weakens what a TEE protects:

* ``simulated``: evidence of the simulated TEE, which protects nothing;
* ``debug``: the host can read and change the TEE's memory, so that it protects nothing;
* ``tdx-no-sept-ve-disable``: the host can interrupt a TD wherever it takes away a page;
* ``tdx-migratable``, ``tdx-service-td``: a service TD, which is measured nowhere in the quote, may take the TD to another machine;
* ``snp-migration-agent``: the host may take a guest's keys elsewhere through an agent that the guest's owner chose;
* ``snp-no-revocation-list``: AMD's revocation list was not to be had.
"""
Component = Literal["bootloader", "tee", "snp", "microcode", "fmc"]
_COMPONENTS = {"bootloader", "tee", "snp", "microcode"}
Register = Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"]


def _hex(text: str) -> str:
    if not re.fullmatch(r"(?:[0-9a-f]{2})+", text):
        raise ValueError("write measurements in lower-case hex")
    if not text.strip("0"):
        raise ValueError("a measurement of zeros is what an unmeasured node has")
    return text


Hex = Annotated[str, AfterValidator(_hex)]


class Policy(BaseModel):
    """Which nodes are accepted.  Everything that is not named is refused.

    ``measurements`` pins, for each kind of TEE in ``tees``, at least one MRENCLAVE or MRTD.  An MRTD covers the firmware of a TD only, so a
    policy for real TDs must also pin ``registers`` rtmr1 and rtmr2 (kernel, initial file system, command line).
    ``min_tcb`` names, for each AMD product that is accepted, the smallest security version of each component of the platform; ``vmpls`` the
    privilege levels that a guest may attest from (0 is the guest itself where nothing runs above it).
    Lists are kept sorted and without repeats, so that one policy has one digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["confide-policy-v1"] = "confide-policy-v1"
    name: str
    tees: tuple[Tee, ...]
    measurements: dict[Tee, tuple[Hex, ...]]
    registers: dict[Register, tuple[Hex, ...]] = Field(default_factory=dict)
    statuses: tuple[TcbStatus, ...] = ("UpToDate",)
    min_tcb_eval: int | None = Field(default=None, ge=1)
    advisories_allowed: tuple[str, ...] = ()
    min_tcb: dict[Product, dict[Component, Annotated[int, Field(ge=0, le=255)]]] = Field(default_factory=dict)
    vmpls: tuple[Annotated[int, Field(ge=0, le=3)], ...] = (0,)
    roles: tuple[Role, ...] = (Role.DRIVER, Role.WORKER)
    allow: tuple[Switch, ...] = ()

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as cause:
            raise _refused(cause) from None

    @model_validator(mode="before")
    @classmethod
    def _tees_of_measurements(cls, data: Any) -> Any:
        if isinstance(data, dict) and "tees" not in data and isinstance(data.get("measurements"), dict):
            return {**data, "tees": tuple(data["measurements"])}
        return data

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        try:
            return check_name(name, "policy name")
        except UsageError as cause:
            raise ValueError(cause.message) from cause

    @field_validator("tees", "statuses", "advisories_allowed", "vmpls", "roles", "allow", mode="after")
    @classmethod
    def _sorted(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(set(values)))

    @field_validator("measurements", "registers", mode="after")
    @classmethod
    def _sorted_lists(cls, table: dict[Any, tuple[str, ...]]) -> dict[Any, tuple[str, ...]]:
        return {name: tuple(sorted(set(table[name]))) for name in sorted(table)}

    @model_validator(mode="after")
    def _asks_enough(self) -> Self:
        _require(
            (
                bool(self.tees and self.roles and self.statuses and self.vmpls),
                "a policy must name at least one kind of TEE, one role, one TCB status and one VMPL",
            ),
            (set(self.measurements) == set(self.tees), "a policy must pin measurements for exactly the kinds of TEE that it accepts"),
            *((_lengths(values, tee), f"measurements for {tee} must be {_HEX_CHARACTERS[tee]} hex characters, and at least one")
              for tee, values in self.measurements.items()),
        )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _asks_enough_of_intel(self) -> Self:
        firmware_only = Tee.TDX in self.tees and "simulated" not in self.allow and not {"rtmr1", "rtmr2"} <= set(self.registers)
        _require(
            (
                all(_lengths(values, Tee.TDX) for values in self.registers.values()),
                "registers must be pinned to values of 96 hex characters, each to at least one",
            ),
            (not self.registers or Tee.TDX in self.tees, "registers are a TD's: without tdx among the kinds of TEE nothing checks them"),
            (all(map(_ADVISORY.fullmatch, self.advisories_allowed)), "advisories are written as INTEL-SA-00615"),
            (
                not _OLD & set(self.statuses) or self.min_tcb_eval is not None,
                "a policy that accepts an out-of-date TCB must set min_tcb_eval: without it there is no minimum TCB",
            ),
            (not firmware_only, "MRTD covers a TD's firmware only: pin registers rtmr1 and rtmr2 as well"),
        )
        return self

    @model_validator(mode="after")
    def _asks_enough_of_amd(self) -> Self:
        _require(
            (
                (Tee.SNP in self.tees) == bool(self.min_tcb),
                "a policy for SEV-SNP, and only such a one, must set min_tcb: AMD rates no TCB, so that nothing else would",
            ),
            (
                all(set(parts) == _COMPONENTS | ({"fmc"} if product == "Turin" else set()) for product, parts in self.min_tcb.items()),
                "min_tcb must name bootloader, tee, snp and microcode of a product (and fmc of Turin)",
            ),
        )
        return self

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Build a policy from its JSON form.

        Raises:
            PolicyError: a field is unknown or wrong, or the policy asks nothing or too little.
        """
        if not isinstance(data, dict):
            raise PolicyError("a policy is an object")
        return cls(**{str(name): value for name, value in data.items()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy file: JSON if its name ends so, TOML otherwise.

        Raises:
            PolicyError: the file cannot be read or is not a policy.
        """
        try:
            text = path.read_text(encoding="utf-8")
            return cls.from_json(parse_object(text) if path.suffix == ".json" else tomllib.loads(text))
        except OSError as cause:
            raise PolicyError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, ParseError) as cause:
            raise PolicyError(f"{path.name} is not a policy file: {cause}", path=str(path)) from cause

    def to_json(self) -> Json:
        """The policy as JSON: every field, defaults included."""
        return self.model_dump(mode="json")

    @cached_property
    def digest(self) -> str:
        """SHA-384 of the RFC 8785 form, lower-case hex."""
        return digest_of(self.to_json())

    def explain(self, verified: VerifiedEvidence, *, role: Role | None = None, now: datetime) -> list[Check]:
        """Each check with what was expected and what was found.  Decides nothing: :func:`appraise` does.

        ``role`` None leaves out the role, for evidence that is shown outside a session.
        """
        claims = verified.claims
        checks = [
            _one_of("tee", self.tees, claims.tee),
            self._switch("simulated", "simulated", needed=claims.simulated),
            self._switch("debug", "debug", needed=claims.debug),
            _one_of("measurement", self.measurements.get(claims.tee, ()), claims.measurement),
        ]
        if claims.tee is Tee.TDX:
            checks += [_one_of(name, values, claims.registers.get(name, "")) for name, values in self.registers.items()]
            checks += self._td_checks(claims)
        checks += self._snp_checks(claims) if claims.tee is Tee.SNP else self._tcb_checks(claims)
        checks.append(
            Check("collateral", f"valid at {now.isoformat(timespec='seconds')}", f"until {claims.epoch.earliest_next_update}",
                  ok=now < claims.epoch.stale_from))
        return checks if role is None else [*checks, _one_of("role", self.roles, role)]

    def _td_checks(self, claims: Claims) -> list[Check]:
        vendor = claims.vendor
        return [
            self._switch("no-sept-ve-disable", "tdx-no-sept-ve-disable", needed=vendor.get("sept_ve_disable") is not True),
            self._switch("migratable", "tdx-migratable", needed=vendor.get("migratable") is not False),
            self._switch("service-td", "tdx-service-td", needed=vendor.get("service_td") is not False),
        ]

    def _snp_checks(self, claims: Claims) -> list[Check]:
        vendor = claims.vendor
        minima = [parts for product, parts in self.min_tcb.items() if product == claims.platform]
        minimum = {str(name): least for parts in minima for name, least in parts.items()}
        enough = bool(minimum) and all(claims.tcb.get(name, -1) >= least for name, least in minimum.items())
        listed = vendor.get("revocation_list") is True
        return [
            _one_of("product", tuple(self.min_tcb), claims.platform),
            Check("tcb", f"at least {_parts(minimum)}", _parts(claims.tcb), ok=enough),
            Check("vmpl", _list(tuple(map(str, self.vmpls))), str(vendor.get("vmpl")), ok=vendor.get("vmpl") in self.vmpls),
            self._switch("migration-agent", "snp-migration-agent", needed=vendor.get("migration_agent") is not False),
            self._switch("revocation-list-missing", "snp-no-revocation-list", needed=not listed),
        ]

    def _switch(self, name: str, switch: Switch, *, needed: bool) -> Check:
        """What must not be, unless the policy has the switch for it."""
        return Check(name, "allowed" if switch in self.allow else "no", "yes" if needed else "no", ok=not needed or switch in self.allow)

    def _tcb_checks(self, claims: Claims) -> list[Check]:
        foreign = sorted(set(claims.advisory_ids) - set(self.advisories_allowed))
        minimum = self.min_tcb_eval or 0
        return [
            _one_of("tcb-status", self.statuses, claims.tcb_status),
            Check("tcb-eval", f"at least {minimum}", str(claims.tcb_eval), ok=claims.tcb_eval >= minimum),
            Check("advisories", _list(self.advisories_allowed), _list(claims.advisory_ids), ok=not foreign),
        ]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an explanation."""

    name: str
    expected: str
    got: str
    ok: bool


_TOKEN = object()


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Verified evidence that a policy accepts and that is bound to one session.  Only :func:`appraise` can make one.

    Everything in ``context`` (job, run, node, seal key), ``role`` and ``spki_digest`` is attested: it was in the report data.
    """

    claims: Claims
    policy_digest: str
    role: Role
    context: NodeContext
    spki_digest: SpkiDigest
    appraised_at: datetime
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("AttestationResult is made by appraise only")

    def __reduce__(self) -> Any:
        raise TypeError("AttestationResult does not travel: send the evidence and appraise it there")

    def to_json(self) -> Json:
        """The result as JSON, for display and audit: a statement about the past, which cannot be read back as a result."""
        return {
            "claims": self.claims.to_json(),
            "policy_digest": self.policy_digest,
            "role": self.role.value,
            "context": self.context.to_json(),
            "spki_digest": self.spki_digest,
            "appraised_at": self.appraised_at.isoformat(),
        }


def appraise(verified: VerifiedEvidence, policy: Policy, binding: SessionBinding, *, now: datetime) -> AttestationResult:
    """Accept ``verified`` under ``policy`` as evidence of the session ``binding``, or raise.

    Does not check that the nonce is fresh (``NonceBook.redeem`` does, before), nor that the context's job is the wanted one (the caller
    does).

    Raises:
        BindingError: the report data is not this session's: another nonce, channel, key, role or context.
        AppraisalError: a check of the policy fails; ``facts`` hold check, expected and got of the first.
    """
    if not hmac.compare_digest(binding.report_data, verified.claims.report_data):
        raise BindingError("the evidence is not bound to this session", hint="it was replayed, relayed or made for another role or job")
    for check in policy.explain(verified, role=binding.role, now=now):
        if not check.ok:
            raise AppraisalError(
                f"{check.name}: expected {check.expected}, got {check.got}",
                check=check.name,
                expected=check.expected,
                got=check.got,
                policy=policy.name,
            )
    return AttestationResult(verified.claims, policy.digest, binding.role, binding.context, binding.spki_digest, now, token=_TOKEN)


def _require(*rules: tuple[bool, str]) -> None:
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def _lengths(values: tuple[str, ...], tee: Tee) -> bool:
    return bool(values) and all(len(value) == _HEX_CHARACTERS[tee] for value in values)


def _one_of(name: str, accepted: tuple[str, ...], got: str) -> Check:
    return Check(name, _list(accepted), str(got), ok=got in accepted)


def _parts(tcb: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(tcb.items())) or "none"


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _refused(error: ValidationError) -> PolicyError:
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return PolicyError(f"{field}: {text}" if field else text, field=field or None)
