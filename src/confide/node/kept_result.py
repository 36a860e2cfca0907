"""A run's result as it is kept for a client that is not there: only that client can read it, and only the run's driver can make it.

A receipt is signed and not secret among those who may have it; but it holds the job's arguments, which whoever runs the nodes has not
been told.  ``{"key": <JWE to the client's key, a content key>, "body": <base64url: nonce, AES-256-GCM>}``; both are bound to the run.
Within is the result, the driver's signature over what it is of, and the evidence that the driver's key is in a TEE for this job and run:
the client's key is public, so that whoever keeps the result could seal another one to it.

The client's one P-256 key signs its TLS handshakes and opens this: ECDSA and ECIES with one key are as safe as each alone (Degabriele,
Lehmann, Paterson, Smart, Strefler: "On the Joint Security of Encryption and Signature in EMV", CT-RSA 2012).
"""

from __future__ import annotations

import gzip
import io
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from confide.attest.init_data import require_init_data
from confide.canonical import Json, b64url, canonical, digest_of, from_b64url, parse_object, sha256_hex
from confide.crypto.jwe import public_jwk
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey, dsse_sign, dsse_verify
from confide.errors import BindingError, ConfideError, IntegrityError, ParseError, ProtocolError
from confide.ids import Role
from confide.node.record import EvidenceRecord

if TYPE_CHECKING:
    from confide.crypto.sign import SigningKey
    from confide.ids import JobDigest, NodeId, RunId, SpkiDigest
    from confide.node.session import VerifierSide

MOST: Final = 64 * 1024 * 1024
"""Bytes of an unpacked result."""
PAYLOAD_TYPE: Final = "application/vnd.confide.kept-result+json"
_NONCE_BYTES: Final = 12
_PARTS: Final = {"result", "signed", "evidence"}


def seal_result(result: Json, client: bytes, driver: SigningKey, shown: EvidenceRecord) -> str:
    """The result by ``driver``, whose evidence is ``shown``, for the holder of the key ``client`` (SubjectPublicKeyInfo, DER) alone.

    Raises:
        ParseError: not a P-256 key.
    """
    key = load_der_public_key(client)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ParseError("not a P-256 public key")
    signed = dsse_sign(driver, PAYLOAD_TYPE, _statement(result, shown, client))
    packed = gzip.compress(canonical({"result": result, "signed": signed, "evidence": shown.to_json()}), mtime=0)
    content_key, nonce = SecretBytes(secrets.token_bytes(32)), secrets.token_bytes(_NONCE_BYTES)
    context = _context(shown.context.run)
    body = nonce + AESGCM(content_key.reveal()).encrypt(nonce, packed, canonical(context))
    return canonical({"key": seal(content_key, public_jwk(key), context=context), "body": b64url(body)}).decode()


@dataclass(frozen=True, slots=True)
class KeptResult:
    """What a client found and could open.  It says nothing until :meth:`by_driver` has settled who made it."""

    result: Json = field(repr=False)
    signed: Json = field(repr=False)
    evidence: EvidenceRecord
    client: bytes

    @classmethod
    def parse(cls, data: bytes, client: bytes) -> Self:
        """Read what was sealed to ``client``.

        Raises:
            ProtocolError: it is no result with a signature and evidence.
            ParseError: one of these is none.
        """
        found = parse_object(data)
        if set(found) != _PARTS or not all(isinstance(part, dict) for part in found.values()):
            raise ProtocolError("a run's result comes with its driver's signature and evidence")
        return cls(found["result"], found["signed"], EvidenceRecord.from_json(found["evidence"]), client)

    def by_driver(self, node: NodeId, *, job: JobDigest, run: RunId, side: VerifierSide, known: SpkiDigest | None) -> Json:
        """The result, made for this client by the driver ``node`` of this run of this job.

        1. The evidence is of that driver, job and run.
        2. Its key is ``known``, that of the driver that this client has attested.  A client that never did judges the evidence now: the
           nonce is its keeper's word, but it holds the run's id, which nobody knew before the run.
        3. That key signed exactly this result, of that run, for this client.

        Raises:
            BindingError: it is another node's, of another job or run, for another client, changed, or not signed.
            AttestationError: the evidence is not what the policy asks for.
        """
        shown = self.evidence
        for what, expected, got in (
            ("role", str(Role.DRIVER), str(shown.role)),
            ("job digest", job, shown.context.job),
            ("run", run, shown.context.run),
            ("node", node, shown.context.node),
            ("key", sha256_hex(shown.spki) if known is None else known, sha256_hex(shown.spki)),
        ):
            if got != expected:
                raise BindingError(f"the result that is kept is by another {what}", check=what, expected=expected, got=got[:120])
        if known is None:
            claims = shown.recheck(side.verifier, side.policy, side.clock()).claims
            if side.init_data is not None:
                require_init_data(claims, side.init_data)
        try:
            said = dsse_verify(self.signed, PublicKey.from_spki(shown.spki), PAYLOAD_TYPE)
        except (IntegrityError, ParseError) as cause:
            raise BindingError("the result that is kept is not signed by the run's driver", reason=cause.message) from cause
        if said != _statement(self.result, shown, self.client):
            raise BindingError("the driver signed another result than the one that is kept", node=node, run=run)
        return self.result


def open_result(kept: str, client: SigningKey, run: RunId, *, most: int = MOST) -> KeptResult:
    """The inverse of :func:`seal_result`, of at most ``most`` bytes.  Whose it is, :meth:`KeptResult.by_driver` says.

    Raises:
        ProtocolError: it is no result, or of another run or client.
    """
    try:
        fields = parse_object(kept.encode())
        content_key = SealKey(client.unwrapped()).open(str(fields.get("key")), context=_context(run))
        body = from_b64url(str(fields.get("body")))
        packed = AESGCM(content_key.reveal()).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], canonical(_context(run)))
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ProtocolError("the run's result is too large", most=most)
        return KeptResult.parse(data, client.spki_der)
    except ProtocolError:
        raise
    except (ConfideError, InvalidTag, OSError, ValueError, EOFError) as cause:
        raise ProtocolError("what was kept of the run is no result for this client") from cause


def _context(run: RunId) -> Json:
    return {"purpose": "result", "run": run}


def _statement(result: Json, shown: EvidenceRecord, client: bytes) -> bytes:
    """What the driver signs: the result, of which run, and for whom, so that nobody passes it on as another's."""
    about = shown.context
    of = {"job": about.job, "run": about.run, "node": about.node, "evidence": shown.digest}
    return canonical({**of, "client": sha256_hex(client), "result": digest_of(result)})
