"""Intel's ratings, rule by rule, on documents of our own: which level counts, and what a part of a platform changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from confide.attest.certs import SgxExtension
from confide.attest.intel_tcb import PlatformRatings, QeRatings, Rating
from confide.attest.quote import SgxBody, TdBody
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import Tee

LEAF = SgxExtension(bytes(16), (5,) * 16, 11, bytes(16), bytes(2), bytes(6), 0)
FINE = Rating("UpToDate", frozenset(), "2025-03-01T00:00:00Z")
ENCLAVE = SgxBody(
    bytes(16), 0x01020304, bytes(28), b"\x15" + bytes(15), bytes(32), bytes(32), b"\xee" * 32, bytes(96), 0x0102, 8, bytes(60), bytes(64)
)
TD = TdBody(bytes([5, 0, 5]) + bytes(13), *[bytes(48)] * 2, *[bytes(8)] * 3, *[bytes(48)] * 8, bytes(64))


def _level(svn: int, status: str, *, pce: int = 11, tdx: Any = None, day: int = 1, advisories: tuple[str, ...] = ()) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": pce}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": value} for value in tdx]
    return {"tcb": tcb, "tcbDate": f"2025-01-{day:02}T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}


def _isv(svn: int, status: str, day: int = 1, advisories: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"tcb": {"isvsvn": svn}, "tcbDate": f"2025-02-{day:02}T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}


def _sgx(*levels: dict[str, Any], **more: Any) -> PlatformRatings:
    return PlatformRatings.parse({"id": "SGX", "version": 3, "tcbLevels": list(levels), **more})


MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def _tdx(*levels: dict[str, Any], **more: Any) -> PlatformRatings:
    return PlatformRatings.parse({"id": "TDX", "version": 3, "tdxModule": MODULE, "tcbLevels": list(levels), **more})


def _identity(*levels: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"id": "QE", "version": 2, "miscselect": "01020304", "miscselectMask": "FFFFFFFF", "attributes": "11" + "00" * 15}
    fields |= {"attributesMask": "FB" + "FF" * 15, "mrsigner": "EE" * 32, "isvprodid": 0x0102}
    return {**fields, "tcbLevels": list(levels) or [_isv(8, "UpToDate")], **more}


# --- platforms --------------------------------------------------------------------------------------------------------


def test_newest_level_that_is_reached_counts_in_whatever_order_levels_come() -> None:
    levels = [_level(3, "OutOfDate"), _level(5, "UpToDate"), _level(6, "SWHardeningNeeded"), _level(5, "ConfigurationNeeded", pce=10)]
    for order in (levels, levels[::-1]):
        assert _sgx(*order).rate(LEAF, ENCLAVE, FINE).status == "UpToDate"


@pytest.mark.parametrize("at", range(16))
def test_level_is_reached_only_in_every_component(at: int) -> None:
    ratings = _sgx(_level(5, "UpToDate"), _level(4, "OutOfDate"))
    tcb = tuple(4 if n == at else 250 for n in range(16))
    assert ratings.rate(dataclasses.replace(LEAF, tcb=tcb), ENCLAVE, FINE).status == "OutOfDate"
    below = tuple(3 if n == at else 250 for n in range(16))
    with pytest.raises(EvidenceInvalidError, match="below all levels"):
        ratings.rate(dataclasses.replace(LEAF, tcb=below), ENCLAVE, FINE)


def test_level_is_reached_only_with_its_provisioning_enclave() -> None:
    ratings = _sgx(_level(5, "UpToDate"))
    ratings.rate(LEAF, ENCLAVE, FINE)
    with pytest.raises(EvidenceInvalidError, match="below all levels"):
        ratings.rate(dataclasses.replace(LEAF, pce_svn=10), ENCLAVE, FINE)


def test_revoked_level_is_refused_and_not_passed_over() -> None:
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        _sgx(_level(5, "Revoked"), _level(3, "UpToDate")).rate(LEAF, ENCLAVE, FINE)


OUT_OF_DATE = [
    ("UpToDate", "OutOfDate"),
    ("SWHardeningNeeded", "OutOfDate"),
    ("ConfigurationNeeded", "OutOfDateConfigurationNeeded"),
    ("ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded"),
    ("OutOfDate", "OutOfDate"),
]


@pytest.mark.parametrize(("status", "with_old_enclave"), OUT_OF_DATE)
def test_only_a_part_that_is_out_of_date_changes_the_status(status: str, with_old_enclave: str) -> None:
    old = Rating("OutOfDate", frozenset({"INTEL-SA-2"}), "2024-01-01T00:00:00Z")
    ratings = _sgx(_level(5, status, day=7, advisories=("INTEL-SA-1",)))
    rated = ratings.rate(LEAF, ENCLAVE, old)
    assert (rated.status, rated.advisories) == (with_old_enclave, {"INTEL-SA-1", "INTEL-SA-2"})
    assert rated.date == "2024-01-01T00:00:00Z"  # of the two, the older
    for part in ("UpToDate", "SWHardeningNeeded"):
        rated = ratings.rate(LEAF, ENCLAVE, dataclasses.replace(FINE, status=part))
        assert (rated.status, rated.date) == (status, "2025-01-07T00:00:00Z")


def test_ratings_are_the_same_whatever_their_dates() -> None:
    assert dataclasses.replace(FINE, date="1999-01-01T00:00:00Z") == FINE


# --- trust domains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(16))
def test_td_reaches_a_level_only_in_every_tdx_component(at: int) -> None:
    wanted = [2 if n in {0, 2, at} and n != 1 else 0 for n in range(16)]
    if at == 1:
        wanted[15] = 2
    ratings = _tdx(_level(5, "UpToDate", tdx=wanted), _level(5, "OutOfDate", tdx=[0] * 16))
    svn = bytes(wanted)
    assert ratings.rate(LEAF, dataclasses.replace(TD, tee_tcb_svn=svn), FINE).status == "UpToDate"
    low = bytearray(svn)
    low[15 if at == 1 else at] = 1
    assert ratings.rate(LEAF, dataclasses.replace(TD, tee_tcb_svn=bytes(low)), FINE).status == "OutOfDate"


def _with_module(*levels: dict[str, Any], tdx: list[int]) -> PlatformRatings:
    identity = {"id": "TDX_01", **MODULE, "mrsigner": "0A" * 48, "tcbLevels": list(levels)}
    return _tdx(_level(5, "UpToDate", tdx=tdx, advisories=("INTEL-SA-1",)), tdxModuleIdentities=[identity])


def test_module_with_an_identity_is_rated_by_it_and_not_by_the_platforms_first_two_components() -> None:
    td = dataclasses.replace(TD, tee_tcb_svn=bytes([3, 1, 5]) + bytes(13), mr_signer_seam=b"\x0a" * 48)
    levels = (_isv(2, "OutOfDate", advisories=("INTEL-SA-2",)), _isv(4, "UpToDate"))
    ratings = _with_module(*levels, tdx=[9, 9, 5, *[0] * 13])
    rated = ratings.rate(LEAF, td, FINE)
    assert (rated.status, rated.advisories) == ("OutOfDate", {"INTEL-SA-1", "INTEL-SA-2"})
    newer = dataclasses.replace(td, tee_tcb_svn=bytes([4, 1, 5]) + bytes(13))
    assert ratings.rate(LEAF, newer, FINE).status == "UpToDate"
    older = dataclasses.replace(td, tee_tcb_svn=bytes([1, 1, 5]) + bytes(13))
    with pytest.raises(EvidenceInvalidError, match="TDX module is older"):
        ratings.rate(LEAF, older, FINE)
    third = dataclasses.replace(td, tee_tcb_svn=bytes([4, 1, 4]) + bytes(13))  # the third component is the platform's
    with pytest.raises(EvidenceInvalidError, match="below all levels"):
        ratings.rate(LEAF, third, FINE)


def test_module_must_be_signed_by_whom_its_own_identity_says() -> None:
    ratings = _with_module(_isv(2, "UpToDate"), tdx=[0] * 16)
    td = dataclasses.replace(TD, tee_tcb_svn=bytes([3, 1, 5]) + bytes(13))
    with pytest.raises(EvidenceInvalidError, match="somebody else"):
        ratings.rate(LEAF, td, FINE)  # the signer of modules of version 0
    with pytest.raises(EvidenceInvalidError, match="somebody else"):
        ratings.rate(LEAF, dataclasses.replace(TD, mr_signer_seam=b"\x0a" * 48), FINE)
    with pytest.raises(EvidenceInvalidError, match="major version"):
        ratings.rate(LEAF, dataclasses.replace(td, tee_tcb_svn=bytes([3, 2, 5]) + bytes(13)), FINE)


def test_module_with_an_attribute_is_refused_whether_or_not_it_is_masked() -> None:
    for mask, attributes in (("FF" * 8, "00" * 8), ("00" * 8, "00" * 8), ("FF" * 8, "0100000000000000")):
        ratings = _tdx(_level(5, "UpToDate", tdx=[0] * 16), tdxModule={**MODULE, "attributesMask": mask, "attributes": attributes})
        seam = bytes(8) if attributes.startswith("01") else b"\x01" + bytes(7)
        with pytest.raises(EvidenceInvalidError, match="attributes"):
            ratings.rate(LEAF, dataclasses.replace(TD, seam_attributes=seam), FINE)
    short = _tdx(_level(5, "UpToDate", tdx=[0] * 16), tdxModule={**MODULE, "attributesMask": "FF" * 7})
    with pytest.raises(CollateralError, match="another length"):
        short.rate(LEAF, TD, FINE)


RELAUNCH = [
    ("OutOfDate", "UpToDate", "TDRelaunchAdvised"),
    ("OutOfDate", "SWHardeningNeeded", "TDRelaunchAdvised"),
    ("OutOfDate", "ConfigurationNeeded", "TDRelaunchAdvisedConfigurationNeeded"),
    ("OutOfDate", "OutOfDate", "OutOfDate"),
    ("UpToDate", "OutOfDate", "UpToDate"),
    ("UpToDate", "ConfigurationNeeded", "UpToDate"),
    ("OutOfDateConfigurationNeeded", "UpToDate", "TDRelaunchAdvisedConfigurationNeeded"),
]


@pytest.mark.parametrize(("launched", "now", "expected"), RELAUNCH)
def test_td_that_was_launched_before_an_update_is_told_to_launch_again(launched: str, now: str, expected: str) -> None:
    ratings = _tdx(_level(5, now, tdx=[7] + [0] * 15), _level(5, launched, tdx=[5] + [0] * 15, advisories=("INTEL-SA-1",)))
    td = dataclasses.replace(TD, tee_tcb_svn2=bytes([7, 0, 5]) + bytes(13), mr_service_td=bytes(48))
    rated = ratings.rate(LEAF, td, FINE)
    assert (rated.status, rated.advisories) == (expected, {"INTEL-SA-1"})


# --- quoting enclaves -------------------------------------------------------------------------------------------------


def test_quoting_enclave_has_the_newest_level_that_it_reaches() -> None:
    levels = (_isv(7, "OutOfDate", 2), _isv(8, "UpToDate", 3, ("INTEL-SA-3",)), _isv(9, "Revoked"), _isv(6, "Revoked"))
    for order in (levels, levels[::-1]):
        ratings = QeRatings.parse(_identity(*order))
        assert ratings.rate(ENCLAVE) == Rating("UpToDate", frozenset({"INTEL-SA-3"}))
        assert ratings.rate(ENCLAVE).date == "2025-02-03T00:00:00Z"
        assert ratings.rate(dataclasses.replace(ENCLAVE, isv_svn=7)).status == "OutOfDate"
        for revoked in (9, 6):
            with pytest.raises(EvidenceInvalidError, match="quoting enclave is revoked"):
                ratings.rate(dataclasses.replace(ENCLAVE, isv_svn=revoked))
        with pytest.raises(EvidenceInvalidError, match="quoting enclave is older"):
            ratings.rate(dataclasses.replace(ENCLAVE, isv_svn=5))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("misc_select", 0x01020305),
        ("misc_select", 0x04030201),
        ("attributes", b"\x13" + bytes(15)),
        ("attributes", b"\x15" + bytes(14) + b"\x01"),
        ("mr_signer", b"\xef" + b"\xee" * 31),
        ("isv_prod_id", 0x0201),
    ],
)
def test_enclave_that_is_not_the_vendors_quoting_enclave_is_refused(field: str, value: Any) -> None:
    ratings = QeRatings.parse(_identity())
    assert ratings.rate(ENCLAVE).status == "UpToDate"
    assert ratings.rate(dataclasses.replace(ENCLAVE, attributes=b"\x11" + bytes(15))).status == "UpToDate"  # a bit outside of the mask
    with pytest.raises(EvidenceInvalidError, match="not made by Intel's quoting enclave"):
        ratings.rate(dataclasses.replace(ENCLAVE, **{field: value}))


# --- documents --------------------------------------------------------------------------------------------------------


def test_documents_of_unknown_versions_are_refused() -> None:
    for version in (2, 4, "3"):
        with pytest.raises(CollateralError, match="documented form"):
            _sgx(_level(5, "UpToDate"), version=version)
    for kind, versions in (("QE", (1, 3, 4, "2")), ("TD_QE", (1, 4, "3"))):
        for version in versions:
            with pytest.raises(CollateralError, match=r"version|documented form"):
                QeRatings.parse(_identity(id=kind, version=version))
    for kind, version in (("QE", 2), ("TD_QE", 2), ("TD_QE", 3)):
        assert QeRatings.parse(_identity(id=kind, version=version)).identity.version == version


def test_tcb_info_of_tdx_needs_its_tdx_parts() -> None:
    whole = _level(5, "UpToDate", tdx=[0] * 16)
    with pytest.raises(CollateralError, match="TDX parts"):
        _tdx(whole, _level(3, "OutOfDate"))
    with pytest.raises(CollateralError, match="TDX parts"):
        _tdx(whole, tdxModule=None)
    with pytest.raises(CollateralError, match="TDX parts"):
        _sgx(_level(5, "UpToDate")).rate(LEAF, TD, FINE)


def _component(value: Any, count: int = 16) -> dict[str, Any]:
    level = _level(5, "UpToDate")
    level["tcb"]["sgxtcbcomponents"] = [{"svn": value}] * count
    return level


@pytest.mark.parametrize(
    "level",
    [
        *(_component(value) for value in (-1, 256, "5", 5.0, True)),
        *(_component(5, count) for count in (15, 17)),
        *(_level(5, "UpToDate", pce=value) for value in (-1, 65536, "11")),
        _level(5, "Whatever"),
    ],
)
def test_level_that_is_not_of_the_documented_form_is_refused(level: dict[str, Any]) -> None:
    with pytest.raises(CollateralError, match="documented form"):
        _sgx(level)


def test_largest_and_smallest_numbers_are_read() -> None:
    leaf = dataclasses.replace(LEAF, tcb=(255,) * 16, pce_svn=65535)
    assert _sgx(_level(255, "UpToDate", pce=65535)).rate(leaf, ENCLAVE, FINE).status == "UpToDate"
    assert _sgx(_level(0, "UpToDate", pce=0)).rate(LEAF, ENCLAVE, FINE).status == "UpToDate"


def test_documents_without_a_level_are_refused() -> None:
    with pytest.raises(CollateralError, match="documented form"):
        _sgx()
    with pytest.raises(CollateralError, match="documented form"):
        QeRatings.parse({**_identity(), "tcbLevels": []})


def test_document_that_was_read_does_not_change() -> None:
    """Its signature is checked once, and what it says is remembered for all platforms."""
    ratings, enclave = _tdx(_level(5, "UpToDate", tdx=[0] * 16)), QeRatings.parse(_identity())
    for document, field in ((ratings.module, "mrsigner"), (enclave.identity, "mrsigner"), (enclave.identity.levels[0].tcb, "isvsvn")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(document, field, getattr(document, field))


def test_ratings_are_of_the_documents_kind_of_tee() -> None:
    assert (_sgx(_level(5, "UpToDate")).tee, _tdx(_level(5, "UpToDate", tdx=[0] * 16)).tee) == (Tee.SGX, Tee.TDX)
