"""The words that policies are written in: measurements, statuses, switches, signers, platforms and dates.  Decides nothing."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from confide.canonical import sha384_hex
from confide.ids import Tee

MEASUREMENT_CHARACTERS: Final = {Tee.SGX: 64, Tee.TDX: 96, Tee.SNP: 96, Tee.TPM: 64}
"""Length of MRENCLAVE, MRTD, SNP's MEASUREMENT and the digest over a TPM's PCRs in hex.

A kind of TEE that is not here cannot be named in a policy."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGEST_CHARACTERS: Final = 96

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
OLD_STATUSES: Final = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"})

Switch = Literal[
    "simulated",
    "debug",
    "tdx-no-sept-ve-disable",
    "tdx-migratable",
    "tdx-service-td",
    "snp-migration-agent",
    "snp-no-revocation-list",
    "tpm-no-memory-protection",
]
"""Named exceptions, each of which weakens what a TEE protects:

* ``simulated``: evidence of the simulated TEE, which protects nothing;
* ``debug``: the host can read and change the TEE's memory, so that it protects nothing;
* ``tdx-no-sept-ve-disable``: the host can interrupt a TD wherever it takes away a page;
* ``tdx-migratable``, ``tdx-service-td``: a service TD, which is measured nowhere in the quote, may take the TD to another machine;
* ``snp-migration-agent``: the host may take a guest's keys elsewhere through an agent that the guest's owner chose;
* ``snp-no-revocation-list``: AMD's revocation list was not to be had;
* ``tpm-no-memory-protection``: a TPM says what was started; the machine's operator can read and change what runs.
"""
Component = Literal["bootloader", "tee", "snp", "microcode", "fmc"]
Register = Literal[
    "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config",
    "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr5", "pcr6", "pcr7", "pcr8", "pcr9", "pcr10", "pcr11",
    "pcr12", "pcr13", "pcr14", "pcr15", "pcr16", "pcr17", "pcr18", "pcr19", "pcr20", "pcr21", "pcr22", "pcr23",
]  # fmt: skip
"""What a TD's report holds beside MRTD, and a TPM's registers.  The three after the RTMRs are what the host said when it made the TD: they
name a configuration, and nobody signed them, so that they narrow what MRTD and the RTMRs allow and never replace it."""


def _hex(text: str) -> str:
    if not re.fullmatch(r"(?:[0-9a-f]{2})+", text):
        raise ValueError("write measurements in lower-case hex")
    if not text.strip("0"):
        raise ValueError("a measurement of zeros is what an unmeasured node has")
    return text


def _of_length(count: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) != count:
            raise ValueError(f"must be {count} hex characters")
        return text

    return AfterValidator(check)


def _plain_date(value: Any) -> Any:
    """Dates only: a number would be read as seconds, and a time has a zone that a date must not drop."""
    if type(value) is date:
        return value
    if isinstance(value, str) and _DATE.fullmatch(value):
        return date.fromisoformat(value)
    raise ValueError("write dates as 2026-12-31")


Hex = Annotated[str, AfterValidator(_hex)]
Hex16 = Annotated[str, AfterValidator(_hex), _of_length(32)]
Hex32 = Annotated[str, AfterValidator(_hex), _of_length(64)]
Hex48 = Annotated[str, AfterValidator(_hex), _of_length(96)]
Fmspc = Annotated[str, AfterValidator(_hex), _of_length(12)]
Day = Annotated[date, BeforeValidator(_plain_date, json_schema_input_type=date)]
"""A day in UTC; "until" a day includes it."""
Isv = Annotated[int, Field(ge=0, le=0xFFFF, strict=True)]


def tee_of_register(name: str) -> Tee:
    """The kind of TEE that a register is of."""
    return Tee.TPM if name.startswith("pcr") else Tee.TDX


def day_of(moment: datetime) -> date:
    """The day of ``moment`` in UTC."""
    return moment.astimezone(UTC).date()


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Advisory(_Value):
    """An Intel advisory that may stand against a platform, for good or through the day ``until``.  Written alone as a text if for good."""

    id: str = Field(pattern=r"^INTEL-SA-[0-9]{5}$")
    until: Day | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, data: Any) -> Any:
        return {"id": data} if isinstance(data, str) else data

    @model_serializer(mode="wrap")
    def _as_text(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.id if self.until is None else handler(self)

    def accepted(self, today: date) -> bool:
        """Whether the advisory may still stand against a platform on this day."""
        return self.until is None or today <= self.until


AdvisoryEntry = Annotated[Advisory, BeforeValidator(lambda value: value, json_schema_input_type=str | Advisory)]


class SgxSigner(_Value):
    """Enclaves that a key signed: MRSIGNER, ISVPRODID and the least ISVSVN (Intel SDM volume 3D, "Enclave Signature Structure").

    All three, because one key signs many products, and old versions of each stay signed.
    """

    mrsigner: Hex32
    isv_prod_id: Isv
    min_isv_svn: Isv


class SnpSigner(_Value):
    """Guests whose ID block a key signed: launch digest, family, image and SVN are under its signature (AMD 56860, "ID Block").

    ``author_key_digest``, if given, is the key that in turn certified the ID key.
    """

    id_key_digest: Hex48
    author_key_digest: Hex48 | None = None
    family_id: Hex16
    image_id: Hex16
    min_guest_svn: Annotated[int, Field(ge=0, le=0xFFFFFFFF, strict=True)]


class Signers(_Value):
    """Whose signed software is accepted.  A TD is signed by nobody: MRSIGNERSEAM is the signer of Intel's module, not of the workload."""

    sgx: tuple[SgxSigner, ...] = ()
    snp: tuple[SnpSigner, ...] = ()

    @property
    def tees(self) -> frozenset[Tee]:
        """The kinds of TEE that a signer is named for."""
        return frozenset(tee for tee in Tee if self.of(tee))

    def of(self, tee: Tee) -> tuple[SgxSigner | SnpSigner, ...]:
        """The signers for one kind of TEE."""
        return self.sgx if tee is Tee.SGX else self.snp if tee is Tee.SNP else ()


def _digest_of_id(count: int) -> AfterValidator:
    """Machines are kept by digest, so that a policy can be shown without saying which machines; ids as the vendor writes them are read."""

    def check(text: str) -> str:
        if len(text) == count:
            return sha384_hex(bytes.fromhex(text))
        if len(text) == _DIGEST_CHARACTERS:
            return text
        raise ValueError(f"must be the id, {count} hex characters, or its SHA-384, {_DIGEST_CHARACTERS}")

    return AfterValidator(check)


PlatformId16 = Annotated[str, AfterValidator(_hex), _digest_of_id(32)]
ChipId = Annotated[str, AfterValidator(_hex), _digest_of_id(128)]

TpmKeyName = Annotated[str, Field(pattern=r"^000b[0-9a-f]{64}$")]
"""The number of SHA-256 and the SHA-256 of the key's public area (TCG "Trusted Platform Module Library", Part 1, section 16)."""


class Platforms(_Value):
    """Which machines are accepted; a list that is empty asks nothing.

    ``fmspc`` names models of Intel platforms (family, model, stepping, platform and SKU); ``ppid`` and ``piid`` Intel machines, by the PCK
    certificate's ids (with both lists, it must be on both); ``chip_id`` AMD chips; ``tpm_key`` machines by the name of their TPM's
    attestation key.
    """

    fmspc: tuple[Fmspc, ...] = ()
    ppid: tuple[PlatformId16, ...] = ()
    piid: tuple[PlatformId16, ...] = ()
    chip_id: tuple[ChipId, ...] = ()
    tpm_key: tuple[TpmKeyName, ...] = ()

    def sorted(self) -> Self:
        """The same lists in order and without repeats."""
        return self.model_copy(update={name: tuple(sorted(set(getattr(self, name)))) for name in type(self).model_fields})
