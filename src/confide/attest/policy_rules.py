"""What one policy asks of one node: typed fields that deny by default.  A policy that asks nothing, or too little, cannot be built.

Judges no evidence: ``policy_checks`` does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from confide.attest.amd_certs import Product
from confide.attest.init_data import INIT_DATA_CHARACTERS, JOB_ALGORITHMS, JOB_DIGEST_NAME
from confide.attest.policy_values import (
    MEASUREMENT_CHARACTERS,
    OLD_STATUSES,
    AdvisoryEntry,
    Component,
    Day,
    Hex,
    Platforms,
    Register,
    Signers,
    Switch,
    TcbStatus,
    tee_of_register,
)
from confide.attest.tokens.issuers import TokenIssuer
from confide.canonical import Json
from confide.errors import PolicyError, UsageError
from confide.ids import Role, Tee, check_name

_COMPONENTS = {"bootloader", "tee", "snp", "microcode"}
_INTEL = {Tee.SGX, Tee.TDX}
_LATER = frozenset({"init_data", "job_init_data"})
"""Fields that are not written where they ask nothing."""


def plain_name(name: str) -> str:
    """``name``, if it is one that a policy can have."""
    try:
        return check_name(name, "policy name")
    except UsageError as cause:
        raise ValueError(cause.message) from cause


def refused(error: ValidationError) -> PolicyError:
    """The first thing that is wrong with a policy."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return PolicyError(f"{field}: {text}" if field else text, field=field or None)


class RuleFields(BaseModel):
    """The fields of a policy for nodes.

    A node must meet every field that is given.  ``measurements`` or ``signers`` must be there for each kind of TEE; where both are, a node
    must meet both.  Lists are kept sorted and without repeats, so that one policy has one digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["confide-policy-v1"] = "confide-policy-v1"
    name: str = Field(description="What refusals and receipts call the policy.")
    tees: tuple[Tee, ...] = Field(default=(), description="Kinds of TEE; by default those that measurements and signers name.")
    measurements: dict[Tee, tuple[Hex, ...]] = Field(default_factory=dict, description="MRENCLAVE, MRTD or MEASUREMENT by kind.")
    signers: Signers = Field(default=Signers(), description="Whose signed software is accepted, from which version on.")
    registers: dict[Register, tuple[Hex, ...]] = Field(default_factory=dict, description="Further measurements of a TD, and a TPM's PCRs.")
    init_data: dict[Tee, tuple[Hex, ...]] = Field(
        default_factory=dict, description="Init-data that guests may be started with: CONFIGID, MRCONFIGID, HOST_DATA or PCR 8 by kind."
    )
    job_init_data: dict[str, str] = Field(
        default_factory=dict, description="Guests must be started with init-data of their job: its digest, and these entries, whole."
    )
    statuses: tuple[TcbStatus, ...] = Field(default=("UpToDate",), description="Intel's ratings that are accepted.")
    statuses_until: dict[TcbStatus, Day] = Field(default_factory=dict, description="The last day that a status is accepted on.")
    min_tcb_eval: int | None = Field(
        default=None, ge=1, le=0xFFFFFFFF, description="Least number of the TCB evaluation that the platform was rated by."
    )
    min_tcb_date: Day | None = Field(default=None, description="Earliest date of the TCB level that an Intel platform reaches.")
    advisories_allowed: tuple[AdvisoryEntry, ...] = Field(default=(), description="Intel advisories that may stand, each with a last day.")
    min_tcb: dict[Product, dict[Component, Annotated[int, Field(ge=0, le=255)]]] = Field(
        default_factory=dict, description="AMD products that are accepted, and the least version of each component."
    )
    vmpls: tuple[Annotated[int, Field(ge=0, le=3)], ...] = Field(default=(0,), description="Privilege levels that a guest may attest from.")
    platforms: Platforms = Field(default=Platforms(), description="Models and machines that are accepted.")
    max_collateral_age_days: int | None = Field(default=None, ge=1, le=3650, description="How old the vendor's statements may be.")
    max_evidence_age_s: int | None = Field(default=None, ge=1, le=31_536_000, description="How long ago evidence may have been verified.")
    jobs: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{96}$")], ...] = Field(default=(), description="Digests of the jobs accepted.")
    roles: tuple[Role, ...] = Field(default=(Role.DRIVER, Role.WORKER), description="Roles that a node may have.")
    allow: tuple[Switch, ...] = Field(default=(), description="Named exceptions, each of which weakens what a TEE protects.")
    token_issuers: tuple[TokenIssuer, ...] = Field(default=(), description="Verifiers whose tokens count in the place of evidence.")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as cause:
            raise refused(cause) from None

    @model_validator(mode="before")
    @classmethod
    def _tees_of_pins(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "tees" in data:
            return data
        pins = [data.get(name) for name in ("measurements", "signers")]
        named = {str(tee) for pin in pins for tee in (pin.tees if isinstance(pin, Signers) else pin if isinstance(pin, dict) else ())}
        return {**data, "tees": tuple(named)}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name)

    @field_validator("tees", "statuses", "vmpls", "roles", "allow", "jobs", mode="after")
    @classmethod
    def _sorted(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(set(values)))

    @model_serializer(mode="wrap")
    def _without_what_is_new_and_not_asked(self, every: SerializerFunctionWrapHandler) -> Json:
        """Policies that ask nothing of init-data have the digests that they had before there was such a field."""
        found: Json = every(self)
        return {name: value for name, value in found.items() if value or name not in _LATER}

    @field_validator("measurements", "registers", "init_data", mode="after")
    @classmethod
    def _sorted_lists(cls, table: dict[Any, tuple[str, ...]]) -> dict[Any, tuple[str, ...]]:
        return {name: tuple(sorted(set(table[name]))) for name in sorted(table)}

    @field_validator("advisories_allowed", mode="after")
    @classmethod
    def _advisories_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        found = tuple(sorted(set(values), key=lambda advisory: advisory.id))
        if len({advisory.id for advisory in found}) != len(found):
            raise ValueError("an advisory is listed twice, with different last days")
        return found

    @field_validator("signers", mode="after")
    @classmethod
    def _signers_in_order(cls, signers: Signers) -> Signers:
        return Signers(sgx=tuple(sorted(set(signers.sgx), key=repr)), snp=tuple(sorted(set(signers.snp), key=repr)))

    @field_validator("token_issuers", mode="after")
    @classmethod
    def _issuers_in_order(cls, issuers: tuple[TokenIssuer, ...]) -> tuple[TokenIssuer, ...]:
        return tuple(sorted(set(issuers), key=repr))

    @field_validator("platforms", mode="after")
    @classmethod
    def _platforms_in_order(cls, platforms: Platforms) -> Platforms:
        return platforms.sorted()

    @model_validator(mode="after")
    def _asks_enough(self) -> Self:
        named = set(self.measurements) | self.signers.tees
        _require(
            (
                bool(self.tees and self.roles and self.statuses and self.vmpls),
                "a policy must name at least one kind of TEE, one role, one TCB status and one VMPL",
            ),
            (set(self.tees) <= set(MEASUREMENT_CHARACTERS), "the policy names a kind of TEE that policies have no rules for"),
            (named == set(self.tees), "a policy must pin measurements or signers for exactly the kinds of TEE that it accepts"),
            *((_lengths(values, tee), f"measurements for {tee} must be {MEASUREMENT_CHARACTERS.get(tee)} hex characters, and at least one")
              for tee, values in self.measurements.items()),
        )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _asks_enough_of_intel(self) -> Self:
        firmware_only = Tee.TDX in self.tees and "simulated" not in self.allow and not {"rtmr1", "rtmr2"} <= set(self.registers)
        platforms = self.platforms
        _require(
            (set(self.statuses_until) <= set(self.statuses), "statuses_until names a status that statuses does not accept"),
            (
                not OLD_STATUSES & set(self.statuses) or self.min_tcb_eval is not None or self.min_tcb_date is not None,
                "a policy that accepts an out-of-date TCB must set min_tcb_date or min_tcb_eval: without it there is no minimum TCB",
            ),
            (not firmware_only, "MRTD covers a TD's firmware only: pin registers rtmr1 and rtmr2 as well"),
            (
                not (platforms.fmspc or platforms.ppid or platforms.piid) or bool(_INTEL & set(self.tees)),
                "fmspc, ppid and piid are Intel's: without sgx or tdx among the kinds of TEE nothing checks them",
            ),
        )
        return self

    @model_validator(mode="after")
    def _asks_enough_of_registers(self) -> Self:
        registers_of = {tee_of_register(name) for name in self.registers}
        _require(
            (
                all(_lengths(values, tee_of_register(name)) for name, values in self.registers.items()),
                "registers must be 96 hex characters (a TPM's 64), each pinned to at least one value",
            ),
            (registers_of <= set(self.tees), "rtmr registers are a TD's, pcr registers a TPM's: without it in tees nothing checks them"),
            (
                (Tee.TPM in self.tees) == ("tpm-no-memory-protection" in self.allow),
                "a policy for a TPM, and only such a one, must allow tpm-no-memory-protection: the operator can read what runs",
            ),
            (
                Tee.TPM not in self.tees or Tee.TPM in registers_of,
                "a policy for a TPM must pin registers (pcr0 to pcr23): which ones a quote selects is the node's choice otherwise",
            ),
        )
        return self

    @model_validator(mode="after")
    def _asks_what_can_be_held(self) -> Self:
        sizes = {tee: {len(value) for value in values} for tee, values in self.init_data.items()}
        lengths = all(found == {INIT_DATA_CHARACTERS.get(tee)} for tee, found in sizes.items())
        kinds = " and ".join(JOB_ALGORITHMS)
        _require(
            (lengths, "init_data is hex characters: 128 for sgx, 96 for tdx, 64 for snp and tpm, at least one for each kind"),
            (set(self.init_data) <= set(self.tees), "init_data of a kind of TEE that the policy does not accept: nothing checks it"),
            (not self.job_init_data or set(self.tees) <= set(JOB_ALGORITHMS), f"init-data of jobs is for {kinds} only"),
            (JOB_DIGEST_NAME not in self.job_init_data, f"{JOB_DIGEST_NAME} is the job's own: leave it out of job_init_data"),
            (not (self.job_init_data and self.init_data), "init_data or job_init_data: a guest is started with one document"),
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
            (
                not self.platforms.tpm_key or Tee.TPM in self.tees,
                "tpm_key is a TPM's: without tpm among the kinds of TEE nothing checks it",
            ),
            (not self.platforms.chip_id or Tee.SNP in self.tees, "chip_id is AMD's: without snp among the kinds of TEE nothing checks it"),
        )
        return self


def _require(*rules: tuple[bool, str]) -> None:
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def _lengths(values: tuple[str, ...], tee: Tee) -> bool:
    return bool(values) and all(len(value) == MEASUREMENT_CHARACTERS.get(tee) for value in values)
