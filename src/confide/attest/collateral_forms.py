"""What other tools write collateral as, read into our own form: PEM, DER and hex lists, signed texts, names of fields.

Reads bytes and values; knows nothing of files or networks, and trusts nothing: who signed a set is checked each time it is used.

Forms: ``sgx_ql_qve_collateral_t`` of Intel's quote verification library (whose TCB info and identity hold their signatures), its JSON
relatives (binary fields in hex, base64 or lists of bytes; names in snake or camel case), and answers of Intel's PCS, API version 4.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from contextlib import suppress
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.certs import DOES_NOT_PARSE, whole
from confide.attest.collateral import Collateral
from confide.canonical import Json, parse_object
from confide.errors import CollateralError, ParseError
from confide.ids import Tee

_BLOCK: Final = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----\r?\n[A-Za-z0-9+/=\r\n]+-----END \1-----")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LISTS: Final = ("root_ca_crl", "pck_crl")
_CHAINS: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_SIGNED: Final = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}
_SIGNATURES: Final = {name: f"{name}_signature" for name in _SIGNED}
_CHAIN_OF_PCK: Final = "pck_certificate_chain"
_NEEDED: Final = {*_LISTS, *_CHAINS, *_SIGNED}
_NUMBERS: Final = {"version", "major_version", "minor_version"}
"""Numbers of the structure: what is in it is judged, not they."""
_TEE_TYPES: Final = {0x00: Tee.SGX, 0x81: Tee.TDX}
_KNOWN: Final = {*_NEEDED, *_SIGNATURES.values(), *_NUMBERS, "tee_type", _CHAIN_OF_PCK}


def pem_blocks(data: bytes) -> tuple[list[x509.Certificate], list[bytes]]:
    """Certificates, and revocation lists in DER, of a text with PEM blocks in any order; what is between them is not read (RFC 7468).

    Percent-encoded text, as it is in the headers of Intel's services, is read too.

    Raises:
        ParseError: there is no block, one is neither, or does not parse.
    """
    text = urllib.parse.unquote_to_bytes(data) if b"-----BEGIN%20" in data else data
    certificates, lists, found = [], [], 0
    for block in _BLOCK.finditer(text):
        found += 1
        try:
            if block[1] == b"CERTIFICATE":
                certificates.append(whole(x509.load_pem_x509_certificate(block[0])))
            else:
                lists.append(_read_list(x509.load_pem_x509_crl(block[0])))
        except DOES_NOT_PARSE as cause:
            raise ParseError("a PEM block does not parse", offset=block.start()) from cause
    if found != text.count(b"-----BEGIN ") or not found:
        raise ParseError("a PEM block is neither a certificate nor a revocation list")
    return certificates, lists


def pem_of(certificates: list[x509.Certificate]) -> str:
    """Concatenated PEM."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def der_list(body: bytes) -> bytes:
    """A revocation list in DER, out of DER, PEM or (from a PCCS) hex.

    Raises:
        CollateralError: it is none.
    """
    text = body.rstrip(b"\0").strip()
    try:
        if text.startswith(b"-----BEGIN"):
            return _read_list(x509.load_pem_x509_crl(text))
        data = body if body.startswith(b"\x30") else bytes.fromhex(text.decode("ascii"))
        return _read_list(x509.load_der_x509_crl(data))
    except DOES_NOT_PARSE as cause:
        raise CollateralError("something that is no revocation list is where one belongs") from cause


def _read_list(crl: x509.CertificateRevocationList) -> bytes:
    """Its DER form; the issuer, which cryptography reads only when asked, is asked for here, so that it does not fail later."""
    _ = crl.issuer
    return crl.public_bytes(Encoding.DER)


def signed_text(text: str, name: str) -> tuple[str, str]:
    """``{"<name>": {...}, "signature": "<hex>"}``: the object's exact text, over which the signature is, and the signature.

    Raises:
        CollateralError: it is none.
    """
    try:
        whole_text = json.loads(text)
        start = text.index("{", text.index(f'"{name}"'))
        found, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as cause:
        raise CollateralError("something that is no signed document is where one belongs", name=name) from cause
    signature = whole_text.get("signature") if isinstance(whole_text, dict) else None
    if not isinstance(signature, str) or whole_text.get(name) != found:
        raise CollateralError("something that is no signed document is where one belongs", name=name)
    return text[start:end], signature


def rewritten(value: Json) -> str:
    """The text of a signed document that a tool read and wrote again.

    Intel signs without white space, and tools keep the order of members; of one that did not, the signature does not verify.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def is_v3(data: Json) -> bool:
    """Whether an object has fields of a version 3 collateral object, in whatever spelling."""
    return any(_snake(name) in _NEEDED for name in data)


def from_v3(data: Json) -> Collateral:
    """Read a version 3 collateral object as other tools write it.

    Raises:
        CollateralError: a field is missing, unknown, there twice, or not of a known form; the problem is named.
        ParseError: a chain is not PEM.
    """
    fields = {_snake(name): value for name, value in data.items()}
    if len(fields) != len(data):
        raise CollateralError("a field of the collateral is there in two spellings")
    if unknown := sorted(set(fields) - _KNOWN):
        raise CollateralError("a field of the collateral is not known", field=unknown[0][:80])
    if missing := sorted(_NEEDED - set(fields)):
        raise CollateralError("a field of the collateral is missing", field=missing[0])
    values: dict[str, object] = {}
    for name in _CHAINS:
        values[name] = _chain(fields[name], name)
    for name in _LISTS:
        values[name] = der_list(_binary(fields[name], name)).hex()
    for name, signature in _SIGNATURES.items():
        values[name], values[signature] = _signed(fields[name], fields.get(signature), name)
    if fields.get(_CHAIN_OF_PCK):
        values[_CHAIN_OF_PCK] = fields[_CHAIN_OF_PCK]
    found = Collateral.from_json(values)
    if "tee_type" in fields and _tee_of(fields["tee_type"]) != found.tee:
        raise CollateralError("the collateral's tee_type is not of its TCB info", tee=found.tee.value)
    return found


def _snake(name: str) -> str:
    """``rootCaCrl`` and ``root_ca_crl`` are one field."""
    return _WORD.sub("_", name).lower()


def _tee_of(value: object) -> Tee | None:
    """What a ``tee_type`` names: a number, or the text of one (``0x81``)."""
    try:
        return _TEE_TYPES.get(int(str(value), 0))
    except ValueError:
        return None


def _binary(value: object, name: str) -> bytes:
    if isinstance(value, list) and all(type(one) is int and 0 <= one <= 0xFF for one in value):
        return bytes(value)
    text = value.rstrip("\0").strip() if isinstance(value, str) else ""
    if text.startswith("-----BEGIN"):
        return text.encode()
    with suppress(ValueError):
        if text:
            return bytes.fromhex(text) if _HEX.fullmatch(text) else base64.b64decode(text, validate=True)
    raise CollateralError("a binary field of the collateral is neither hex nor base64", field=name)


def _chain(value: object, name: str) -> str:
    """An issuer's chain with the root last, as Intel's services give it and some tools do not."""
    if not isinstance(value, str):
        raise CollateralError("a field of the collateral is not text", field=name)
    certificates, lists = pem_blocks(value.encode())
    if lists:
        raise CollateralError("a revocation list is where a chain of certificates belongs", field=name)
    return pem_of(sorted(certificates, key=lambda one: one.subject == one.issuer))


def _signed(value: object, signature: object, name: str) -> tuple[str, str]:
    """The exact text of a signed document, and its signature in hex: beside it, or (Intel's structure) in it."""
    text = rewritten(value) if isinstance(value, dict) else value.rstrip("\0") if isinstance(value, str) else ""
    try:
        data = parse_object(text)
    except ParseError as cause:
        raise CollateralError("a signed document of the collateral is not JSON", field=name) from cause
    found = b"" if signature is None else _binary(signature, _SIGNATURES[name])
    if _SIGNED[name] in data:
        text, inner = signed_text(text, _SIGNED[name])
        if found and found != _binary(inner, name):
            raise CollateralError("a signed document of the collateral has two signatures", field=name)
        found = _binary(inner, name)
    if not found:
        raise CollateralError("a field of the collateral is missing", field=_SIGNATURES[name])
    return text, found.hex()
