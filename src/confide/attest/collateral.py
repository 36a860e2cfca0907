"""Collateral: what the vendor signed about a platform (TCB info, quoting enclave identity, revocation lists), with an epoch.

Reads, stores and orders collateral; that it is signed by whom it must be is checked in :mod:`confide.attest.verify`, each time it is used.
Format of the JSON form: the fields of Intel's ``sgx_ql_qve_collateral_t`` version 3, binary ones in hex.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

from cryptography import x509

from confide.attest.certs import CA_KINDS, DOES_NOT_PARSE, common_name, parse_chain
from confide.canonical import Json, parse_object, sha384_hex
from confide.errors import CollateralError, ParseError
from confide.ids import Tee

MAX_COLLATERAL_BYTES = 512 * 1024
"""Cap on one set of collateral, in bytes: genuine sets are about 30 KiB."""
_HEX_FIELDS = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_CHAIN = "pck_certificate_chain"
_TCB_INFO_VERSION = 3
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class CollateralEpoch:
    """How new a set of collateral is.  Numbers only ever grow at the vendor; a set with a smaller one is a roll-back."""

    tcb_eval: int
    qe_eval: int
    root_crl_number: int
    pck_crl_number: int
    root_crl_issued: str
    pck_crl_issued: str
    """ISO 8601, UTC.  Intel numbers every list 1, so that only these tell an old list from a new one."""
    earliest_next_update: str
    """ISO 8601, UTC: when the first part of the set (revocation lists and certificates included) goes stale."""

    def to_json(self) -> Json:
        """The epoch as JSON, for receipts."""
        return {name: getattr(self, name) for name in _EPOCH}

    @property
    def stale_from(self) -> datetime:
        """:attr:`earliest_next_update` as a time."""
        return datetime.fromisoformat(self.earliest_next_update)

    def check_not_older_than(self, seen: CollateralEpoch) -> None:
        """Refuse a roll-back.

        Raises:
            CollateralError: a number is smaller than in ``seen``.
        """
        for name in ("tcb_eval", "qe_eval", "root_crl_number", "pck_crl_number", "root_crl_issued", "pck_crl_issued"):
            if getattr(self, name) < getattr(seen, name):
                raise CollateralError(
                    "collateral is older than collateral seen before", field=name, got=getattr(self, name), seen=getattr(seen, name)
                )


_EPOCH = tuple(one.name for one in fields(CollateralEpoch))


@dataclass(frozen=True)
class Collateral:
    """One set of collateral for one platform model (FMSPC), PCK CA and kind of TEE."""

    pck_crl_issuer_chain: str = field(repr=False)
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    tcb_info_issuer_chain: str = field(repr=False)
    tcb_info: str = field(repr=False)
    tcb_info_signature: bytes = field(repr=False)
    qe_identity_issuer_chain: str = field(repr=False)
    qe_identity: str = field(repr=False)
    qe_identity_signature: bytes = field(repr=False)
    pck_certificate_chain: str = field(default="", repr=False)
    """PEM, of one machine: what ``dcap-qvl`` keeps with the set of a quote that carries no chain.  Empty in all others."""

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read the JSON form, totally: chains, lists, TCB info and identity have to parse.

        Raises:
            CollateralError: a field is missing, unknown or does not parse.
        """
        names = {f.name for f in fields(cls)}
        if isinstance(data, dict) and data.get(_CHAIN, "") is None:
            data = {name: value for name, value in data.items() if name != _CHAIN}
        if not isinstance(data, dict) or set(data) | {_CHAIN} != names or not all(isinstance(value, str) for value in data.values()):
            raise CollateralError("collateral must have exactly the fields of a version 3 collateral object")
        if sum(map(len, data.values())) > MAX_COLLATERAL_BYTES:
            raise CollateralError("collateral is too large", limit=MAX_COLLATERAL_BYTES)
        try:
            values: dict[str, Any] = {name: bytes.fromhex(text) if name in _HEX_FIELDS else text for name, text in data.items()}
        except ValueError as cause:
            raise CollateralError("a binary field of the collateral is not hex") from cause
        found = cls(**values)
        _check_version(found.tcb)
        _ = found.epoch, found.fmspc, found.tee, found.ca
        return found

    def to_json(self) -> dict[str, str]:
        """The JSON form."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.pck_certificate_chain:
            del values[_CHAIN]
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}

    @cached_property
    def tcb(self) -> Json:
        """The TCB info as parsed JSON.  Unverified here."""
        return _parsed(self.tcb_info, "TCB info")

    @cached_property
    def qe(self) -> Json:
        """The quoting enclave's identity as parsed JSON.  Unverified here."""
        return _parsed(self.qe_identity, "quoting enclave identity")

    @cached_property
    def root_crl(self) -> x509.CertificateRevocationList:
        """The root's revocation list.  Unverified here."""
        return _crl(self.root_ca_crl)

    @cached_property
    def pck_revocations(self) -> x509.CertificateRevocationList:
        """The PCK CA's revocation list.  Unverified here."""
        return _crl(self.pck_crl)

    def chain(self, name: str) -> list[x509.Certificate]:
        """The certificates of one issuer chain field.  Unverified here."""
        try:
            return parse_chain(str(getattr(self, name)).encode())
        except ParseError as cause:
            raise CollateralError(f"{name} is not a certificate chain") from cause

    @property
    def fmspc(self) -> str:
        """The platform model: 12 lower-case hex characters."""
        return _text(self.tcb, "fmspc").lower()

    @property
    def ca(self) -> str:
        """Which PCK CA the set is for: ``platform`` or ``processor``."""
        name = common_name(self.pck_revocations.issuer)
        if name not in CA_KINDS:
            raise CollateralError("the PCK revocation list is not of a PCK CA", issuer=name)
        return CA_KINDS[name]

    @property
    def tee(self) -> Tee:
        """Which kind of TEE the TCB info is for."""
        try:
            return Tee(_text(self.tcb, "id").lower())
        except ValueError as cause:
            raise CollateralError("the TCB info is for another kind of TEE") from cause

    @cached_property
    def platform(self) -> tuple[str, str, Tee]:
        """What a source finds the set by."""
        return self.fmspc, self.ca, self.tee

    @cached_property
    def digest(self) -> str:
        """SHA-384 of the JSON form, lower-case hex: names the set."""
        return sha384_hex(json.dumps(self.to_json(), sort_keys=True).encode())

    @cached_property
    def issued(self) -> datetime:
        """When the newest part was issued (certificates included): a set is not valid before."""
        begins = [certificate.not_valid_before_utc for certificate in self._signers()]
        begins += [self.root_crl.last_update_utc, self.pck_revocations.last_update_utc]
        return max(*begins, _time(_text(self.tcb, "issueDate")), _time(_text(self.qe, "issueDate")))

    @cached_property
    def signed_since(self) -> datetime:
        """When the oldest of what the vendor renews monthly was signed: TCB info, identity, the PCKs' revocation list."""
        return min(self.pck_revocations.last_update_utc, _time(_text(self.tcb, "issueDate")), _time(_text(self.qe, "issueDate")))

    def _signers(self) -> list[x509.Certificate]:
        return [c for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain") for c in self.chain(name)]

    @cached_property
    def epoch(self) -> CollateralEpoch:
        """How new the set is."""
        ends = [certificate.not_valid_after_utc for certificate in self._signers()]
        for crl in (self.root_crl, self.pck_revocations):
            if crl.next_update_utc is None:
                raise CollateralError("a revocation list has no end")
            ends.append(crl.next_update_utc)
        ends += [_time(_text(self.tcb, "nextUpdate")), _time(_text(self.qe, "nextUpdate"))]
        return CollateralEpoch(
            tcb_eval=_count(self.tcb, "tcbEvaluationDataNumber"),
            qe_eval=_count(self.qe, "tcbEvaluationDataNumber"),
            root_crl_number=_crl_number(self.root_crl),
            pck_crl_number=_crl_number(self.pck_revocations),
            root_crl_issued=self.root_crl.last_update_utc.strftime(_TIME),
            pck_crl_issued=self.pck_revocations.last_update_utc.strftime(_TIME),
            earliest_next_update=min(ends).strftime(_TIME),
        )


def _check_version(tcb: Json) -> None:
    """Intel's API has given TCB infos of version 3 since its version 4; those of version 2 say nothing of TDX and are not renewed."""
    if tcb.get("version") != _TCB_INFO_VERSION:
        hint = "get collateral from version 4 of Intel's API, or from a PCCS that speaks it"
        raise CollateralError("the TCB info is not of version 3", hint=hint, got=str(tcb.get("version"))[:20])


def _parsed(text: str, what: str) -> Json:
    try:
        return parse_object(text)
    except ParseError as cause:
        raise CollateralError(f"the {what} is not JSON") from cause


def _crl(data: bytes) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_der_x509_crl(data)
        # Read lazily by cryptography: asked for here, so that a list that parsed does not fail later.
        _ = crl.issuer, crl.extensions, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm, len(crl)
    except DOES_NOT_PARSE as cause:
        raise CollateralError("a revocation list does not parse") from cause
    return crl


def _crl_number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, ValueError) as cause:
        raise CollateralError("a revocation list has no number") from cause


def _text(table: Json, name: str) -> str:
    value: Any = table.get(name)
    if not isinstance(value, str):
        raise CollateralError("a field of the collateral is missing", field=name)
    return value


def _count(table: Json, name: str) -> int:
    value: Any = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CollateralError("a number of the collateral is missing", field=name)
    return value


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError as cause:
        raise CollateralError("a time of the collateral is not of the form YYYY-MM-DDTHH:MM:SSZ") from cause
