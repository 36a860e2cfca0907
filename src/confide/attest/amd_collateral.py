"""AMD's collateral: the chain above a chip's endorsement key and the root's revocation list, with an epoch.

Reads and orders; that it is signed by whom it must be is checked in :mod:`confide.attest.snp`, each time it is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509

from confide.attest.amd_certs import PRODUCTS, EndorsementKey, Product
from confide.attest.certs import DOES_NOT_PARSE, parse_chain
from confide.canonical import sha384_hex
from confide.errors import CollateralError, ParseError
from confide.ids import Tee

if TYPE_CHECKING:
    from confide.canonical import Json

_FIELDS: Final = {"product", "key", "chain", "crl"}
_MAX_BYTES: Final = 64 * 1024
_CHAIN: Final = 2
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class AmdEpoch:
    """How new a set is.  ``crl_number`` is -1, and ``crl_issued`` empty, for a set without a revocation list."""

    crl_number: int
    crl_issued: str
    earliest_next_update: str
    """ISO 8601, UTC: when the first part of the set goes stale."""

    def to_json(self) -> Json:
        """The epoch as JSON, for receipts."""
        return asdict(self)

    @property
    def stale_from(self) -> datetime:
        """:attr:`earliest_next_update` as a time."""
        return datetime.fromisoformat(self.earliest_next_update)

    def check_not_older_than(self, seen: AmdEpoch) -> None:
        """Refuse a roll-back.

        Raises:
            CollateralError: the revocation list is older than the one in ``seen``.
        """
        for name in ("crl_number", "crl_issued"):
            if getattr(self, name) < getattr(seen, name):
                raise CollateralError("collateral is older than collateral seen before", field=name, got=getattr(self, name))


@dataclass(frozen=True)
class AmdCollateral:
    """One set for one product and kind of endorsement key.

    ``chain`` is PEM: the key that certifies (ASK or ASVK), then the root (ARK).  ``crl`` is DER, empty if none was to be had: policies
    refuse that unless they say otherwise.
    """

    product: Product
    key: EndorsementKey
    chain: str = field(repr=False)
    crl: bytes = field(repr=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read the JSON form (``crl`` in hex), totally.

        Raises:
            CollateralError: a field is missing, unknown or does not parse.
        """
        if not isinstance(data, dict) or set(data) != _FIELDS or not all(isinstance(value, str) for value in data.values()):
            raise CollateralError("AMD's collateral must have exactly the fields product, key, chain and crl")
        if sum(map(len, data.values())) > _MAX_BYTES:
            raise CollateralError("collateral is too large", limit=_MAX_BYTES)
        if data["product"] not in PRODUCTS or data["key"] not in {"vcek", "vlek"}:
            raise CollateralError("collateral of a product or key that is not known here", got=data["product"][:40])
        try:
            found = cls(data["product"], data["key"], data["chain"], bytes.fromhex(data["crl"]))
        except ValueError as cause:
            raise CollateralError("the revocation list is not hex") from cause
        _ = found.epoch
        return found

    def to_json(self) -> dict[str, str]:
        """The JSON form."""
        return {"product": self.product, "key": self.key, "chain": self.chain, "crl": self.crl.hex()}

    @property
    def tee(self) -> Tee:
        """Always SEV-SNP."""
        return Tee.SNP

    @property
    def platform(self) -> tuple[str, str, Tee]:
        """What a source finds the set by."""
        return self.product, self.key, Tee.SNP

    @cached_property
    def digest(self) -> str:
        """SHA-384 of the JSON form, lower-case hex: names the set."""
        return sha384_hex(json.dumps(self.to_json(), sort_keys=True).encode())

    @cached_property
    def certificates(self) -> tuple[x509.Certificate, x509.Certificate]:
        """The certifying key and the root.  Unverified here."""
        try:
            chain = parse_chain(self.chain.encode())
        except ParseError as cause:
            raise CollateralError("AMD's chain is not one") from cause
        if len(chain) != _CHAIN:
            raise CollateralError("AMD's chain must be the certifying key and the root", length=len(chain))
        return chain[0], chain[1]

    @cached_property
    def revocations(self) -> x509.CertificateRevocationList | None:
        """The root's revocation list.  Unverified here."""
        if not self.crl:
            return None
        try:
            crl = x509.load_der_x509_crl(self.crl)
            # Read lazily by cryptography: asked for here, so that a list that parsed does not fail later.
            _ = crl.issuer, crl.extensions, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm, len(crl)
        except DOES_NOT_PARSE as cause:
            raise CollateralError("a revocation list does not parse") from cause
        return crl

    @cached_property
    def issued(self) -> datetime:
        """When the newest part was issued: a set is not valid before."""
        begins = [certificate.not_valid_before_utc for certificate in self.certificates]
        return max([*begins, self.revocations.last_update_utc] if self.revocations is not None else begins)

    @property
    def signed_since(self) -> datetime:
        """When what AMD renews was signed: the revocation list, or the certificates for a set without."""
        return self.issued if self.revocations is None else self.revocations.last_update_utc

    @cached_property
    def epoch(self) -> AmdEpoch:
        """How new the set is."""
        ends = [certificate.not_valid_after_utc for certificate in self.certificates]
        number, issued, crl = -1, "", self.revocations
        if crl is not None:
            if crl.next_update_utc is None:
                raise CollateralError("a revocation list has no end")
            ends.append(crl.next_update_utc)
            number, issued = _number(crl), crl.last_update_utc.strftime(_TIME)
        return AmdEpoch(number, issued, min(ends).strftime(_TIME))


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
