"""EAR: attestation results as signed tokens, written and read (draft-ietf-rats-ear, RFC 9711, Trustee's profile).

Only an :class:`AttestationResult` can be written, and what is read is an :class:`EarClaims`: a statement of another verifier, which no
grant accepts.  Format: ``docs/formats/ear.md``.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK

from confide import __version__
from confide.attest.ar4si import CLAIMS, status_of, vector_of
from confide.attest.claims import Claims
from confide.attest.policy import AttestationResult
from confide.attest.tokens.jwt import Algorithm, TokenBook, UnverifiedJwt, Validity, check_audience, text_claim
from confide.canonical import Json, b64url, canonical
from confide.errors import TokenInvalidError, TokenMisdirectedError, UsageError

PROFILE: Final = "tag:github.com,2024:confidential-containers/Trustee"
"""``eat_profile`` of Trustee's tokens, which its readers compare."""
DEVELOPER: Final = "confide"
SUBMODULE: Final = "cpu0"
"""Trustee's name for the first TEE of a CPU."""
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("ES256", "ES384")
_CURVES: Final = {"secp256r1": ("ES256", "P-256", SHA256()), "secp384r1": ("ES384", "P-384", SHA384())}
LONGEST: Final = timedelta(hours=1)
"""How long a result may be relied on: collateral and revocation move on."""
_NONCE_CHARACTERS: Final = range(8, 89)
"""RFC 9711, section 4.1: a nonce in JSON has 8 to 88 characters."""


@dataclass(frozen=True, slots=True)
class EarRequest:
    """For whom a token is written: its issuer's name, its one audience, how long it counts, and the audience's nonce if it gave one."""

    issuer: str
    audience: str
    lifetime: timedelta = timedelta(minutes=5)
    nonce: str | None = None

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience or not timedelta(0) < self.lifetime <= LONGEST:
            raise UsageError("a token names its issuer and audience, and counts for at most an hour")
        if self.nonce is not None and len(self.nonce) not in _NONCE_CHARACTERS:
            raise UsageError("a token's nonce has 8 to 88 characters", got=len(self.nonce))


@dataclass(frozen=True, slots=True)
class EarClaims:
    """What a genuine EAR says.  No :class:`AttestationResult`: nothing was verified or appraised here, and no session is bound to it.

    ``policy_digest`` and ``collateral_epoch`` are Confide's own claims, which tokens of Trustee do not have.
    ``confirmation`` is the attested public key (``cnf``): who cannot prove to hold it is not the one that the token is about.
    """

    issuer: str
    token_id: str
    audience: str
    nonce: str | None
    validity: Validity
    status: str
    vector: dict[str, int] = field(hash=False)
    policy_id: str
    policy_digest: str | None
    collateral_epoch: Json | None = field(hash=False)
    confirmation: Json = field(hash=False)
    evidence: Json = field(hash=False)
    session_bound: bool = field(default=False, init=False)

    def to_json(self) -> Json:
        """The claims as JSON, for display."""
        return {
            "issuer": self.issuer,
            "id": self.token_id,
            "audience": self.audience,
            "nonce": self.nonce,
            "issued_at": self.validity.issued_at.isoformat(),
            "expires_at": self.validity.expires_at.isoformat(),
            "status": self.status,
            "vector": dict(self.vector),
            "policy_id": self.policy_id,
            "policy_digest": self.policy_digest,
            "collateral_epoch": self.collateral_epoch,
            "confirmation": dict(self.confirmation),
            "evidence": dict(self.evidence),
            "session_bound": self.session_bound,
        }


def write_ear(result: AttestationResult, request: EarRequest, key: ec.EllipticCurvePrivateKey, *, now: datetime) -> str:
    """``result`` as a token signed by ``key`` (P-256: ES256, P-384: ES384), in compact form.

    Raises:
        TypeError: ``result`` was not made by ``appraise``.
        UsageError: the key is on another curve.
    """
    if not isinstance(result, AttestationResult):
        raise TypeError("a token states an AttestationResult, which appraise makes")
    vector = vector_of(result.claims)
    appraisal = {
        "ear.status": status_of(vector),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": f"confide:{result.policy_digest}",
        "ear.veraison.annotated-evidence": {
            **result.claims.to_json(),
            "runtime_data_claims": {**result.context.to_json(), "role": result.role.value, "spki_digest": result.spki_digest},
        },
        "confide.policy-digest": result.policy_digest,
        "confide.collateral-epoch": result.claims.epoch.to_json(),
    }
    return _signed(_payload(appraisal, dict(result.context.seal), request, now), key)


def write_guest_ear(
    claims: Claims | None, runtime: Json, request: EarRequest, key: ec.EllipticCurvePrivateKey, *, now: datetime
) -> tuple[str, str]:
    """What genuine evidence of a guest says, which **no policy has judged**, as a signed token; and the token's id.

    ``runtime`` are the guest's attested values, among them ``tee-pubkey``, which is the confirmation key.  ``claims`` is ``None`` for a
    sample, which proves nothing: its hardware is contraindicated (AR4SI section 2.3.4, 97: "cannot be recognised").

    Raises:
        UsageError: the key is on another curve than P-256 and P-384.
    """
    # Executables: nobody has said which are approved.
    vector = {**dict.fromkeys(CLAIMS, 0), "hardware": 97} if claims is None else {**vector_of(claims), "executables": 0}
    appraisal: Json = {
        "ear.status": status_of(vector),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": "confide:none",
        "ear.veraison.annotated-evidence": {**({} if claims is None else claims.to_json()), "runtime_data_claims": runtime},
    }
    if claims is not None:
        appraisal["confide.collateral-epoch"] = claims.epoch.to_json()
    payload = _payload(appraisal, runtime["tee-pubkey"], request, now)
    return _signed(payload, key), str(payload["jti"])


def _signed(payload: Json, key: ec.EllipticCurvePrivateKey) -> str:
    """A JWS in compact form (RFC 7515, section 3.1).  Made from the primitives: a broker signs one for each guest."""
    if key.curve.name not in _CURVES:
        raise UsageError("tokens are signed with a P-256 or P-384 key", got=key.curve.name)
    algorithm, curve, digest = _CURVES[key.curve.name]
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    size = len(point) // 2
    named = canonical({"crv": curve, "kty": "EC", "x": b64url(point[:size]), "y": b64url(point[size:])})
    header = {"alg": algorithm, "kid": b64url(hashlib.sha256(named).digest()), "typ": "JWT"}  # kid: RFC 7638, section 3
    signed = f"{b64url(canonical(header))}.{b64url(canonical(payload))}"
    parts = decode_dss_signature(key.sign(signed.encode("ascii"), ec.ECDSA(digest)))
    return f"{signed}.{b64url(b''.join(part.to_bytes(size) for part in parts))}"  # RFC 7518, section 3.4


def _payload(appraisal: Json, confirmation: Json, request: EarRequest, now: datetime) -> Json:
    issued = int(now.timestamp())
    nonce = {} if request.nonce is None else {"eat_nonce": request.nonce}
    return {
        **nonce,
        "eat_profile": PROFILE,
        "iss": request.issuer,
        "aud": request.audience,
        "iat": issued,
        "nbf": issued,
        "exp": issued + int(request.lifetime.total_seconds()),
        "jti": secrets.token_hex(16),
        "cnf": {"jwk": confirmation},
        "ear.verifier-id": {"developer": DEVELOPER, "build": f"confide {__version__}"},
        "submods": {SUBMODULE: appraisal},
    }


@dataclass(frozen=True, slots=True)
class EarReader:
    """Reads tokens of one issuer for one audience.  With a ``book``, each token is taken once."""

    issuer: str
    key: JWK = field(repr=False)
    audience: str
    leeway: timedelta = timedelta(seconds=30)
    book: TokenBook | None = None

    def read(self, text: str, *, nonce: str | None = None, now: datetime) -> EarClaims:
        """What a token says, if it is this issuer's, for this audience, of this time, and holds ``nonce`` (if one was given out).

        Does not check that its bearer holds the confirmation key, nor whether the status is good enough: the caller does.

        Raises:
            TokenInvalidError: it is not genuine, or lacks something.
            TokenMisdirectedError: it is of another issuer or profile, or for another audience or nonce.
            TokenExpiredError: it is not of this time.
            TokenReplayError: it was read before.
        """
        claims = UnverifiedJwt.parse(text).verified(self.key, ALGORITHMS)
        found = _read(claims, Validity.of(claims, now=now, leeway=self.leeway, longest=LONGEST), self.audience)
        if claims.get("eat_profile") != PROFILE or found.issuer != self.issuer:
            raise TokenMisdirectedError("the token is of another issuer or profile", expected=self.issuer, got=found.issuer[:120])
        check_audience(claims, self.audience)
        if nonce is not None and found.nonce != nonce:
            raise TokenMisdirectedError("the token does not answer this nonce")
        if self.book is not None:
            self.book.take(found.issuer, found.token_id, found.validity.expires_at, now)
        return found


def _read(claims: Json, validity: Validity, audience: str) -> EarClaims:
    module = _object(_object(claims, "submods"), SUBMODULE)
    vector = _object(module, "ear.trustworthiness-vector")
    if not set(vector) <= set(CLAIMS) or not all(type(value) is int and -128 <= value <= 127 for value in vector.values()):
        raise TokenInvalidError("a token's trustworthiness vector has a claim or value that does not exist")
    if text_claim(module, "ear.status") != status_of(vector):
        raise TokenInvalidError("a token's status is not that of its trustworthiness vector")
    if len(_object(claims, "submods")) != 1:
        raise TokenInvalidError("a token speaks of more than one TEE")
    return EarClaims(
        issuer=text_claim(claims, "iss"),
        token_id=text_claim(claims, "jti"),
        audience=audience,
        nonce=text_claim(claims, "eat_nonce") if "eat_nonce" in claims else None,
        validity=validity,
        status=text_claim(module, "ear.status"),
        vector=vector,
        policy_id=text_claim(module, "ear.appraisal-policy-id"),
        policy_digest=text_claim(module, "confide.policy-digest") if "confide.policy-digest" in module else None,
        collateral_epoch=_object(module, "confide.collateral-epoch") if "confide.collateral-epoch" in module else None,
        confirmation=_object(_object(claims, "cnf"), "jwk"),
        evidence=_object(module, "ear.veraison.annotated-evidence"),
    )


def _object(claims: Json, name: str) -> Json:
    value = claims.get(name)
    if not isinstance(value, dict):
        raise TokenInvalidError("a token lacks a claim that must be an object", claim=name)
    return value
