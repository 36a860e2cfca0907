"""Intel's ratings: what TCB info and quoting enclave identity say of a platform, a TDX module and a quoting enclave.

Formats: Intel SGX and TDX Provisioning Certification Service API, version 4, "Get TCB Info" and "Get Quoting Enclave Identity".  Rules:
Intel SGX and TDX DCAP Quote Verification Library, sections 4.1.2.4.17 (levels), 4.1.2.4.11 (TDX module) and 4.1.2.9 (quoting enclave).
Pure; whether the documents are signed by whom they must be is checked before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import ge
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from confide.attest.certs import SgxExtension
from confide.attest.quote import SgxBody, TdBody
from confide.canonical import Json
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import Tee

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
_OUT_OF_DATE: Final = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
}
"""What a platform's status becomes by a part of it (TDX module, quoting enclave) that is out of date."""
_NEEDS_CONFIGURATION: Final = {"ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded"}
_TDX_MODULE_PARTS: Final = 2
"""The first components of TEE_TCB_SVN are the TDX module's own: its minor version and its major version."""

_Hex = Annotated[str, Field(pattern=r"^(?:[0-9a-fA-F]{2})+$")]
_Svn = Annotated[int, Field(ge=0, le=0xFF, strict=True)]
_Isv = Annotated[int, Field(ge=0, le=0xFFFF, strict=True)]
_Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # the vendor adds fields


class _Component(_Document):
    svn: _Svn


_Components = Annotated[tuple[_Component, ...], Field(min_length=16, max_length=16)]


class _PlatformSvns(_Document):
    sgxtcbcomponents: _Components
    pcesvn: _Isv
    tdxtcbcomponents: _Components | None = None


class _IsvSvn(_Document):
    isvsvn: _Isv


class _PlatformLevel(_Document):
    tcb: _PlatformSvns
    status: Status = Field(alias="tcbStatus")
    date: _Time = Field(alias="tcbDate")
    advisories: tuple[str, ...] = Field(default=(), alias="advisoryIDs")


class _IsvLevel(_Document):
    tcb: _IsvSvn
    status: Status = Field(alias="tcbStatus")
    date: _Time = Field(alias="tcbDate")
    advisories: tuple[str, ...] = Field(default=(), alias="advisoryIDs")


class _Module(_Document):
    mrsigner: _Hex
    attributes: _Hex
    attributes_mask: _Hex = Field(alias="attributesMask")


class _ModuleIdentity(_Module):
    id: str
    levels: tuple[_IsvLevel, ...] = Field(alias="tcbLevels")


class _TcbInfo(_Document):
    id: Literal["SGX", "TDX"]
    version: Literal[3]
    levels: tuple[_PlatformLevel, ...] = Field(alias="tcbLevels", min_length=1)
    module: _Module | None = Field(default=None, alias="tdxModule")
    modules: tuple[_ModuleIdentity, ...] = Field(default=(), alias="tdxModuleIdentities")


class _QeIdentity(_Document):
    id: Literal["QE", "TD_QE"]
    version: Literal[2, 3]
    miscselect: _Hex
    miscselect_mask: _Hex = Field(alias="miscselectMask")
    attributes: _Hex
    attributes_mask: _Hex = Field(alias="attributesMask")
    mrsigner: _Hex
    isvprodid: _Isv
    levels: tuple[_IsvLevel, ...] = Field(alias="tcbLevels", min_length=1)


_D = TypeVar("_D", bound=_Document)
_QE_VERSIONS: Final = {"QE": (2,), "TD_QE": (2, 3)}


@dataclass(frozen=True, slots=True)
class Rating:
    """Intel's word on the firmware of a platform, or of a part of it.  ``Revoked`` is never a rating: it is refused.

    ``date`` is the level's ``tcbDate``: firmware of that level has no known weakness that was published before.  It is no part of what two
    verifiers compare, because the reference does not say it.
    """

    status: str
    advisories: frozenset[str]
    date: str = field(default="", compare=False)

    def with_part(self, part: Rating) -> Rating:
        """The rating of a platform that has this part: only one that is out of date changes the status; the older date counts."""
        status = _OUT_OF_DATE.get(self.status, self.status) if part.status == "OutOfDate" else self.status
        return Rating(status, self.advisories | part.advisories, min(self.date, part.date))

    def after_update(self, current: Rating) -> Rating:
        """The rating of a TD that was launched as ``self`` says and runs, after an update of the TDX module, as ``current`` says."""
        if not self.status.startswith("OutOfDate") or current.status not in _OUT_OF_DATE:
            return self
        needs = {self.status, current.status} & _NEEDS_CONFIGURATION
        return Rating("TDRelaunchAdvisedConfigurationNeeded" if needs else "TDRelaunchAdvised", self.advisories, self.date)


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of a platform, its numbers as bytes."""

    sgx: bytes
    pce_svn: int
    tdx: bytes
    rating: Rating


@dataclass(frozen=True, slots=True)
class PlatformRatings:
    """A TCB info, ready to rate platforms of its model.  ``levels`` from the newest to the oldest."""

    tee: Tee
    levels: tuple[_Level, ...]
    module: _Module | None
    modules: dict[str, _ModuleIdentity]

    @classmethod
    def parse(cls, data: Json) -> Self:
        """Read a TCB info.

        Raises:
            CollateralError: it is not one of version 3, or lacks what its kind of TEE needs.
        """
        info = _read(_TcbInfo, data, "TCB info")
        tee = Tee(info.id.lower())
        if tee is Tee.TDX and (info.module is None or any(level.tcb.tdxtcbcomponents is None for level in info.levels)):
            raise CollateralError("the TCB info lacks its TDX parts")
        levels = [_Level(_bytes(one.tcb.sgxtcbcomponents), one.tcb.pcesvn, _bytes(one.tcb.tdxtcbcomponents), _rating(one))
                  for one in info.levels]  # fmt: skip
        levels.sort(key=lambda level: (level.sgx, level.pce_svn, level.tdx), reverse=True)
        return cls(tee, tuple(levels), info.module, {module.id.upper(): module for module in info.modules})

    def rate(self, leaf: SgxExtension, body: SgxBody | TdBody, enclave: Rating) -> Rating:
        """Rate the platform of a PCK certificate with its quoting enclave, and for TDX the module at the TD's launch and now.

        Raises:
            EvidenceInvalidError: no level matches, the level is revoked, or the TDX module is not Intel's.
        """
        if isinstance(body, SgxBody):
            return self._level(leaf, None).rating.with_part(enclave)
        self._check_module(body)
        launched = self._rate_td(leaf, body.tee_tcb_svn).with_part(enclave)
        if not body.tee_tcb_svn2:
            return launched
        return launched.after_update(self._rate_td(leaf, body.tee_tcb_svn2).with_part(enclave))

    def _rate_td(self, leaf: SgxExtension, svn: bytes) -> Rating:
        level = self._level(leaf, svn)
        module = self._module(svn)
        return level.rating if module is None else level.rating.with_part(_matching(module.levels, svn[0], "TDX module"))

    def _level(self, leaf: SgxExtension, svn: bytes | None) -> _Level:
        """The newest level that the platform reaches in every component."""
        start = _TDX_MODULE_PARTS if svn is not None and svn[1] else 0  # a module with its own identity is rated by that
        for level in self.levels:
            reached = leaf.pce_svn >= level.pce_svn and all(map(ge, leaf.tcb, level.sgx))
            if reached and (svn is None or all(map(ge, svn[start:], level.tdx[start:]))):
                _refuse_revoked(level.rating, "platform's TCB")
                return level
        raise EvidenceInvalidError("the platform's TCB is below all levels that Intel knows")

    def _module(self, svn: bytes) -> _ModuleIdentity | None:
        """The identity of the TDX module's major version; None for major version 0, which has none."""
        if not svn[1]:
            return None
        found = self.modules.get(f"TDX_{svn[1]:02X}")
        if found is None:
            raise EvidenceInvalidError("the TDX module's major version is none that the TCB info knows", version=svn[1])
        return found

    def _check_module(self, body: TdBody) -> None:
        module = self._module(body.tee_tcb_svn) or self.module
        if module is None:
            raise CollateralError("the TCB info lacks its TDX parts")
        if body.mr_signer_seam.hex() != module.mrsigner.lower():
            raise EvidenceInvalidError("the TDX module is signed by somebody else than Intel", got=body.mr_signer_seam.hex())
        mask = bytes.fromhex(module.attributes_mask)
        masked = _masked(body.seam_attributes, mask)
        if masked != bytes.fromhex(module.attributes) or masked != body.seam_attributes:
            raise EvidenceInvalidError("the TDX module has attributes that it must not have", got=body.seam_attributes.hex())


@dataclass(frozen=True, slots=True)
class QeRatings:
    """A quoting enclave identity, ready to rate quoting enclaves."""

    identity: _QeIdentity

    @classmethod
    def parse(cls, data: Json) -> Self:
        """Read an identity.

        Raises:
            CollateralError: it is not one of a known version.
        """
        identity = _read(_QeIdentity, data, "quoting enclave identity")
        if identity.version not in _QE_VERSIONS[identity.id]:
            raise CollateralError("the quoting enclave identity is of an unknown version", version=identity.version)
        return cls(identity)

    def rate(self, report: SgxBody) -> Rating:
        """Rate the quoting enclave of a report.

        Raises:
            EvidenceInvalidError: it is not Intel's quoting enclave, or one that is revoked or older than all levels.
        """
        wanted = self.identity
        misc = report.misc_select.to_bytes(4, "little")
        for what, got, expected in (
            ("MISCSELECT", _masked(misc, bytes.fromhex(wanted.miscselect_mask)[::-1]), bytes.fromhex(wanted.miscselect)[::-1]),
            ("attributes", _masked(report.attributes, bytes.fromhex(wanted.attributes_mask)), bytes.fromhex(wanted.attributes)),
            ("signer", report.mr_signer, bytes.fromhex(wanted.mrsigner)),
            ("product id", report.isv_prod_id.to_bytes(2, "little"), wanted.isvprodid.to_bytes(2, "little")),
        ):
            if got != expected:
                facts = {"field": what, "expected": expected.hex(), "got": got.hex()}
                raise EvidenceInvalidError("the quote was not made by Intel's quoting enclave", **facts)
        return _matching(wanted.levels, report.isv_svn, "quoting enclave")


def _read(kind: type[_D], data: Json, what: str) -> _D:
    try:
        return kind.model_validate(data)
    except ValidationError as cause:
        first = cause.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise CollateralError(f"the {what} is not of the documented form", field=field, problem=first["msg"]) from cause


def _rating(level: _PlatformLevel | _IsvLevel) -> Rating:
    return Rating(level.status, frozenset(level.advisories), level.date)


def _bytes(components: tuple[_Component, ...] | None) -> bytes:
    return bytes(component.svn for component in components or ())


def _masked(value: bytes, mask: bytes) -> bytes:
    if len(value) != len(mask):
        raise CollateralError("a mask of the collateral has another length than what it masks", length=len(mask), expected=len(value))
    return bytes(map(int.__and__, value, mask))


def _matching(levels: tuple[_IsvLevel, ...], svn: int, what: str) -> Rating:
    """The rating of the newest level that ``svn`` reaches."""
    reached: list[Any] = [level for level in levels if svn >= level.tcb.isvsvn]
    if not reached:
        raise EvidenceInvalidError(f"the {what} is older than all levels that Intel knows", svn=svn)
    rating = _rating(max(reached, key=lambda level: level.tcb.isvsvn))
    _refuse_revoked(rating, what)
    return rating


def _refuse_revoked(rating: Rating, what: str) -> None:
    if rating.status == "Revoked":
        raise EvidenceInvalidError(f"the {what} is revoked")
