"""Collateral as people have it in files: whole sets in any known form, and parts as the vendors' services answer, put together.

Reads and sorts; that a set is signed by whom it must be is checked each time it is used.  What could be meant in two ways is refused.

Forms: those of :mod:`confide.attest.collateral_forms`; ``platform_collaterals.json`` of Intel's PCS client tool (what a PCCS is filled
with); the answer of Azure's THIM service for AMD; answers of Intel's PCS (API version 4) and of AMD's KDS (publication 57230, chapter 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography import x509

from confide.attest.amd_certs import PRODUCTS, EndorsementKey, issuer_name, root_name
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.certs import CA_KINDS, TCB_SIGNER_CN, common_name
from confide.attest.collateral import Collateral
from confide.attest.collateral_forms import der_list, from_v3, is_v3, pem_blocks, pem_of, rewritten, signed_text
from confide.attest.collateral_service import BUNDLE_FORMAT, read_bundle
from confide.attest.collateral_sources import AnyCollateral, read_collateral
from confide.canonical import Json, parse_object
from confide.errors import CollateralError, ParseError

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED: Final = (
    "give a version 3 collateral object (as dcap-qvl or Intel's library has it), platform_collaterals.json of Intel's PCS client tool, an "
    "exported bundle, product/key/chain/crl, or, as several files, what the vendor's service answers: TCB info, enclave identity, "
    "revocation lists (DER, PEM) and issuer chains (PEM)"
)
_MAX_FILE: Final = 8 * 1024 * 1024
"""Cap on one file, in bytes: a tool's file for many platforms has about 30 KiB a platform."""
_IDENTITIES: Final = {"SGX": "QE", "TDX": "TD_QE"}
_KEYS: Final[tuple[EndorsementKey, ...]] = ("vcek", "vlek")
_One = TypeVar("_One")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What makes sets together: certificates, revocation lists (DER), and signed documents (exact text, signature in hex)."""

    certificates: tuple[x509.Certificate, ...] = ()
    lists: tuple[bytes, ...] = ()
    infos: tuple[tuple[str, str], ...] = ()
    identities: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: _Parts) -> _Parts:
        return _Parts(
            self.certificates + other.certificates,
            self.lists + other.lists,
            self.infos + other.infos,
            self.identities + other.identities,
        )

    def certificate(self, name: str) -> x509.Certificate | None:
        """The one certificate with this common name; the same one may be there several times."""
        return _only({one for one in self.certificates if common_name(one.subject) == name}, "certificates of one name", name)

    def root_of(self, certificate: x509.Certificate) -> x509.Certificate | None:
        """The one certificate that names itself as its issuer, and is named so by ``certificate``."""
        found = {one for one in self.certificates if one.subject == one.issuer == certificate.issuer}
        return _only(found, "certificates of one name", common_name(certificate.issuer))

    def list_of(self, issuer: x509.Certificate) -> bytes | None:
        """The one revocation list that names ``issuer``."""
        found = {one for one in self.lists if x509.load_der_x509_crl(one).issuer == issuer.subject}
        return _only(found, "revocation lists of one issuer", common_name(issuer.subject))


def _only(found: set[_One], what: str, name: str) -> _One | None:
    if len(found) > 1:
        raise CollateralError(f"two {what} are among the parts of the collateral", name=name)
    return next(iter(found), None)


def load_sets(paths: Iterable[Path]) -> list[AnyCollateral]:
    """Every set in some files, and those that their loose parts make together.

    Raises:
        CollateralError: a file cannot be read, is of no known form, the files hold no set, or two for one platform.
    """
    sets: list[AnyCollateral] = []
    parts, given = _Parts(), list(paths)
    for path in given:
        try:
            found, more = _read(_bytes_of(path))
        except ParseError as cause:
            raise CollateralError("the collateral file does not parse", hint=ACCEPTED, path=str(path), problem=cause.message) from cause
        except CollateralError as cause:
            raise CollateralError(cause.message, hint=cause.hint or ACCEPTED, **{"path": str(path), **cause.facts}) from cause
        sets, parts = sets + found, parts + more
    sets += _assembled(parts)
    if given and not sets:  # else a caller would look elsewhere for what it was told to take from here
        raise CollateralError("the files hold no set of collateral", hint=ACCEPTED)
    names = [one.platform for one in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CollateralError("there are two sets of collateral for one platform", platform=twice[0][0], hint="give one of them")
    return sets


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as cause:
        raise CollateralError(f"cannot read collateral: {cause.strerror}") from cause
    if len(data) > _MAX_FILE:
        raise CollateralError("the collateral file is too large", limit=_MAX_FILE)
    return data


def _read(data: bytes) -> tuple[list[AnyCollateral], _Parts]:
    """The whole sets of a file, or the parts that it holds."""
    if data.lstrip().startswith(b"{"):
        return _read_json(data)
    if b"-----BEGIN" in data:
        certificates, lists = pem_blocks(data)
        return [], _Parts(tuple(certificates), tuple(lists))
    try:
        return [], _Parts(lists=(der_list(data),))
    except CollateralError as cause:
        raise CollateralError("the file is of no form that collateral is known in", hint=ACCEPTED) from cause


def _read_json(raw: bytes) -> tuple[list[AnyCollateral], _Parts]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as cause:
        raise CollateralError("the collateral file is JSON, but not in UTF-8") from cause
    data = parse_object(text)
    match data:
        case {"format": str(form)} if form == BUNDLE_FORMAT:
            return read_bundle(data), _Parts()
        case {"product": _} | {"root": _}:
            return [read_collateral(data)], _Parts()
        case {"collaterals": dict(collaterals)}:
            return _assembled(_of_client_tool(collaterals)), _Parts()
        case {"tcbInfo": dict(), "signature": str()} if len(data) == 2:
            return [], _Parts(infos=(signed_text(text, "tcbInfo"),))
        case {"enclaveIdentity": dict(), "signature": str()} if len(data) == 2:
            return [], _Parts(identities=(signed_text(text, "enclaveIdentity"),))
        case {"certificateChain": str(chain), "vcekCert": str()}:
            return [], _Parts(tuple(pem_blocks(chain.encode())[0]))
        case _ if is_v3(data):
            return [from_v3(data)], _Parts()
    raise CollateralError("the JSON is of no form that collateral is known in", hint=ACCEPTED)


def _of_client_tool(collaterals: Json) -> _Parts:
    """The parts of ``platform_collaterals.json``.  Only standard updates are taken, as from Intel's service: early ones are another set."""
    certificates = [c for text in _texts(collaterals.get("certificates")) for c in pem_blocks(text.encode())[0]]
    lists = [der_list(text.encode()) for text in _texts([collaterals.get("pckcacrl"), collaterals.get("rootcacrl")])]
    listed = collaterals.get("tcbinfos")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    documents = [entry.get(name) for entry in entries for name in ("tcbinfo", "sgx_tcbinfo", "tdx_tcbinfo")]
    infos = [signed_text(rewritten(document), "tcbInfo") for document in documents if isinstance(document, dict)]
    texts = _texts([collaterals.get("qeidentity"), collaterals.get("tdqeidentity")])
    identities = [signed_text(text, "enclaveIdentity") for text in texts]
    return _Parts(tuple(certificates), tuple(lists), tuple(infos), tuple(identities))


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value that are not empty."""
    if isinstance(value, str) and value.strip():
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(one)


def _assembled(parts: _Parts) -> list[AnyCollateral]:
    sets: list[AnyCollateral] = [*_amd_sets(parts), *_intel_sets(parts)]
    if not sets and parts != _Parts():
        raise CollateralError("the parts that were given make no set of collateral", hint=ACCEPTED)
    return sets


def _amd_sets(parts: _Parts) -> Iterator[AmdCollateral]:
    for product in PRODUCTS:
        root = parts.certificate(root_name(product))
        issuers = {key: parts.certificate(issuer_name(product, key)) for key in _KEYS}
        if root is None or not any(issuers.values()):
            if root is not None or any(issuers.values()):
                raise _missing(f"{root_name(product)} and a key that certifies chips, both")
            continue
        crl = parts.list_of(root) or b""
        for key, issuer in issuers.items():
            if issuer is not None:
                yield AmdCollateral.from_json({"product": product, "key": key, "chain": pem_of([issuer, root]), "crl": crl.hex()})


def _intel_sets(parts: _Parts) -> Iterator[Collateral]:
    identities = {str(_inner(text).get("id")): (text, signature) for text, signature in parts.identities}
    if len(identities) != len(set(parts.identities)):
        raise CollateralError("two enclave identities of one kind are among the parts of the collateral")
    for info, signature in dict.fromkeys(parts.infos):
        signer = parts.certificate(TCB_SIGNER_CN)
        identity = identities.get(_IDENTITIES.get(str(_inner(info).get("id", "SGX")), ""))
        if signer is None or (root := parts.root_of(signer)) is None:
            raise _missing(f"the issuer chain of the TCB info ({TCB_SIGNER_CN} and the root)")
        if identity is None:
            raise _missing("the quoting enclave's identity for the same kind of TEE")
        if (root_list := parts.list_of(root)) is None:
            raise _missing("the root's revocation list")
        issuers = [found for name in CA_KINDS if (found := parts.certificate(name)) is not None]
        listed = [(issuer, crl) for issuer in issuers if (crl := parts.list_of(issuer)) is not None]
        if not listed:
            raise _missing("a PCK CA's revocation list, with its issuer chain")
        for issuer, crl in listed:
            yield Collateral.from_json(
                {
                    "pck_crl_issuer_chain": pem_of([issuer, root]),
                    "root_ca_crl": root_list.hex(),
                    "pck_crl": crl.hex(),
                    "tcb_info_issuer_chain": pem_of([signer, root]),
                    "tcb_info": info,
                    "tcb_info_signature": signature,
                    "qe_identity_issuer_chain": pem_of([signer, root]),
                    "qe_identity": identity[0],
                    "qe_identity_signature": identity[1],
                }
            )


def _inner(text: str) -> Json:
    try:
        return parse_object(text)
    except ParseError as cause:
        raise CollateralError("a signed document of the collateral is not JSON") from cause


def _missing(what: str) -> CollateralError:
    return CollateralError("a part of the collateral is missing", missing=what, hint=ACCEPTED)
