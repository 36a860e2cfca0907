"""An issuer's public keys (RFC 7517): read strictly, fetched from the pinned place only, kept for a while.

A key id that is not known makes the set be fetched again, at most once in ``retry``: a stream of made-up ids is no stream of requests.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from jwcrypto.common import JWException
from jwcrypto.jwk import JWK

from confide.attest.certs import DOES_NOT_PARSE, der, whole
from confide.canonical import Json, canonical, parse_object
from confide.errors import CollateralError, ParseError, TokenInvalidError

if TYPE_CHECKING:
    from confide.attest.vendor_http import Http

_MAX_KEYS: Final = 64
_MAX_CHAIN: Final = 6
_MAX_JWKS_CHARACTERS: Final = 256 * 1024
_KINDS: Final = {"EC", "RSA", "OKP"}


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys by id."""

    _keys: dict[str, JWK] = field(repr=False)

    @classmethod
    def parse(cls, text: str | bytes, *, root: str | None, now: datetime) -> Self:
        """Read a JWK set.  Symmetric and foreign kinds of key are left out (RFC 7517, section 5).

        With ``root`` (SHA-256, hex), each key's certificate chain has to verify up to that certificate as of ``now``.

        Raises:
            TokenInvalidError: no JWK set, too many keys, two keys with one id, or a key or chain that is wrong.
        """
        try:
            entries = parse_object(text).get("keys") if len(text) <= _MAX_JWKS_CHARACTERS else None
        except ParseError as cause:
            raise TokenInvalidError("an issuer's key set does not parse") from cause
        if not isinstance(entries, list) or len(entries) > _MAX_KEYS or not all(isinstance(entry, dict) for entry in entries):
            raise TokenInvalidError("not a set of keys")
        found: dict[str, JWK] = {}
        for entry in entries:
            if not isinstance(entry.get("kty"), str) or entry["kty"] not in _KINDS or not isinstance(entry.get("kid"), str):
                continue
            if entry["kid"] in found:
                raise TokenInvalidError("two keys of a set have one id", kid=entry["kid"][:80])
            found[entry["kid"]] = _key(entry, root, now)
        return cls(found)

    def get(self, kid: str | None) -> JWK | None:
        """The key with that id.  Without an id there is none: keys are never tried one after the other."""
        return None if kid is None else self._keys.get(kid)


def _key(entry: Json, root: str | None, now: datetime) -> JWK:
    chain = _chain(entry.get("x5c"))
    if root is not None:
        _check_chain(chain, root, now)
    try:
        of_chain = JWK.from_pyca(chain[0].public_key()) if chain else None
        if not {"n", "x"} & set(entry):
            # Azure publishes certificates without the key's own members.
            if of_chain is None:
                raise TokenInvalidError("a key of the set has no value")
            return of_chain
        key = JWK.from_json(canonical({name: value for name, value in entry.items() if name not in {"x5c", "x5u"}}).decode())
        if key.has_private or (of_chain is not None and of_chain.thumbprint() != key.thumbprint()):
            raise TokenInvalidError("a key of the set is private, or is not its certificate's (RFC 7517, section 4.7)")
    except (JWException, ValueError, TypeError, KeyError) as cause:  # KeyError: jwcrypto's, for a member of another kind of key
        raise TokenInvalidError("a key of the set does not parse") from cause
    return key


def _chain(value: Any) -> list[x509.Certificate]:
    if value is None:
        return []
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_CHAIN or not all(isinstance(item, str) for item in value):
        raise TokenInvalidError("a key's certificate chain is no chain")
    try:
        return [whole(x509.load_der_x509_certificate(base64.b64decode(item, validate=True))) for item in value]
    except DOES_NOT_PARSE as cause:  # base64's error is a ValueError
        raise TokenInvalidError("a key's certificate does not parse") from cause


def _check_chain(chain: list[x509.Certificate], root: str, now: datetime) -> None:
    if not chain or hashlib.sha256(der(chain[-1])).hexdigest() != root:
        raise TokenInvalidError("a key's certificate chain does not end in the issuer's root")
    for certificate, issuer in itertools.pairwise([*chain, chain[-1]]):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as cause:
            raise TokenInvalidError("a key's certificate chain is broken") from cause
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise TokenInvalidError("a certificate of a key's chain is not valid now")
    for issuer in chain[1:]:
        try:
            authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            authority = False
        if not authority:
            raise TokenInvalidError("a certificate of a key's chain is issued by one that may not issue")


@dataclass
class _Kept:
    keys: KeySet
    fetched: datetime


class KeyPlace(Protocol):
    """An issuer, and where its keys are: given as ``jwks``, or at ``jwks_url``.  Hashable."""

    @property
    def issuer(self) -> str:
        """The issuer's name."""
        ...

    @property
    def jwks(self) -> str | None:
        """The keys, if they are given."""
        ...

    @property
    def jwks_url(self) -> str | None:
        """The only place that they are fetched from, if not."""
        ...

    @property
    def x5c_root(self) -> str | None:
        """What each key's certificate chain has to end in, if it has to (SHA-256, hex)."""
        ...


class IssuerKeys:
    """Keys of issuers, given or fetched.  Safe to use from several threads."""

    def __init__(self, http: Http | None = None, *, ttl: timedelta = timedelta(hours=1), retry: timedelta = timedelta(minutes=5)) -> None:
        self._http, self._ttl, self._retry = http, ttl, retry
        self._lock = threading.Lock()
        self._kept: dict[KeyPlace, _Kept] = {}
        self._tried: dict[KeyPlace, datetime] = {}

    def find(self, issuer: KeyPlace, kid: str | None, now: datetime) -> JWK:
        """The key of ``issuer`` with that id.

        Raises:
            TokenInvalidError: it has none, or its key set is wrong.
            CollateralError: its keys cannot be fetched, and none that are still good are kept.
        """
        if issuer.jwks is not None:
            key = KeySet.parse(issuer.jwks, root=issuer.x5c_root, now=now).get(kid)
        else:
            with self._lock:
                key = self._fetched(issuer, kid, now)
        if key is None:
            raise TokenInvalidError("the issuer has no key with the token's id", kid=(kid or "none")[:80], issuer=issuer.issuer)
        return key

    def _fetched(self, issuer: KeyPlace, kid: str | None, now: datetime) -> JWK | None:
        kept = self._kept.get(issuer)
        if kept is not None and now >= kept.fetched + self._ttl:
            kept = None
        if kept is not None and ((key := kept.keys.get(kid)) is not None or kid is None):
            return key
        if issuer in self._tried and now < self._tried[issuer] + self._retry:
            if kept is not None:
                return None
            raise CollateralError("an issuer's keys could not be fetched a moment ago", issuer=issuer.issuer, hint="try again later")
        self._tried[issuer] = now
        answer = self._http.get(issuer.jwks_url) if self._http is not None and issuer.jwks_url is not None else None
        if answer is None:
            raise CollateralError("an issuer's keys are not where they should be", issuer=issuer.issuer)
        self._kept[issuer] = _Kept(KeySet.parse(answer.body, root=issuer.x5c_root, now=now), now)
        return self._kept[issuer].keys.get(kid)
