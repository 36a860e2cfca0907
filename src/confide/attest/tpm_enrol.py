"""How an attestation key (AK) is enrolled: the owner convinces itself that the AK is in a genuine TPM.  No IO.

1. The node sends the certificate of its TPM's endorsement key (EK) with the chain, and the AK's public area.
2. The owner checks that chain up to a manufacturer's root that it pins, and that the AK signs only what its TPM made; then it encrypts
   a fresh secret to the EK under the AK's name (:func:`challenge`, TPM2_MakeCredential).
3. The node's TPM gives the secret out only if that AK is loaded in the TPM that has the EK (TPM2_ActivateCredential).
4. The owner gets the secret back, and keeps a record of the AK (:meth:`Challenge.enrol`) or issues a certificate for it
   (:meth:`Challenge.certify`).

Cryptography: TCG "Trusted Platform Module Library, Part 1", revision 1.59, section 24 (credential protection), annex B.10.4 (RSA), and
11.4.10 (KDFa); for EKs of template L-1 (TCG "EK Credential Profile", RSA 2048, SHA-256, AES-128), which every TPM has.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.x509.oid import NameOID

from confide.attest.tpm import AK_CERTIFICATE, check_attestation_key, check_chain
from confide.attest.tpm_format import Public
from confide.attest.tpm_trust import EnrolledKey
from confide.errors import EvidenceInvalidError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate: the extended key usage of a certificate for an EK."""
_SECRET_BYTES: Final = 32
_SEED_BYTES: Final = 32
MAX_VALIDITY: Final = timedelta(days=90)
"""The longest that an AK's certificate is good for: there is no revocation list but each verifier's own."""
MAX_ENROLMENT: Final = timedelta(days=366)
"""The longest that a record is good for, which a verifier can revoke."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the node has to answer: ``credential`` is a TPM2B_ID_OBJECT, ``encrypted_secret`` a TPM2B_ENCRYPTED_SECRET."""

    credential: bytes
    encrypted_secret: bytes
    public: Public = field(repr=False)
    answer_digest: bytes = field(repr=False)

    def enrol(self, answer: bytes, machine: str, ek: str, *, now: datetime, valid: timedelta) -> EnrolledKey:
        """A record of the AK, under the owner's name for its machine.  ``ek``: SHA-256 of the EK's certificate.

        Raises:
            EvidenceInvalidError: the answer is not the secret, so that the AK is not in the TPM that has the EK.
            ValueError: ``valid`` is longer than :data:`MAX_ENROLMENT`.
        """
        self._check(answer)
        if not timedelta(0) < valid <= MAX_ENROLMENT:
            raise ValueError("an attestation key is enrolled for a year at most")
        return EnrolledKey(self.public.name.hex(), machine, ek, now, now + valid)

    def _check(self, answer: bytes) -> None:
        if not hmac.compare_digest(hashlib.sha256(answer).digest(), self.answer_digest):
            raise EvidenceInvalidError("the attestation key is not in the TPM whose certificate was shown")

    def certify(
        self, answer: bytes, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, now: datetime, valid: timedelta
    ) -> x509.Certificate:
        """A certificate for the AK by the owner's CA.

        Raises:
            EvidenceInvalidError: the answer is not the secret, so that the AK is not in the TPM that has the EK.
            ValueError: ``valid`` is longer than :data:`MAX_VALIDITY`.
        """
        self._check(answer)
        if not timedelta(0) < valid <= MAX_VALIDITY:
            raise ValueError("a certificate for an attestation key is short-lived")
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"TPM AK {self.public.name.hex()[:16]}")]))
            .issuer_name(issuer.subject)
            .public_key(self.public.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([AK_CERTIFICATE]), critical=True)
            .sign(key, hashes.SHA256())
        )


def challenge(chain: list[x509.Certificate], public: Public, roots: AbstractSet[str], now: datetime) -> Challenge:
    """A challenge that only the TPM whose EK certificate begins ``chain`` can answer, and only with the AK ``public`` in it.

    ``roots``: SHA-256 (DER, hex) of the manufacturers' roots that the owner trusts.

    Raises:
        EvidenceInvalidError: the chain leads to no such root, the EK is of another kind than template L-1, or the AK could sign forgeries.
    """
    check_chain(chain, roots, EK_CERTIFICATE, now)
    check_attestation_key(public)
    ek = chain[0].public_key()
    if not isinstance(ek, rsa.RSAPublicKey) or ek.key_size != 2048:
        raise EvidenceInvalidError("the endorsement key is of another kind than RSA 2048")
    secret = secrets.token_bytes(_SECRET_BYTES)
    credential, encrypted = make_credential(ek, public.name, secret)
    return Challenge(credential, encrypted, public, hashlib.sha256(secret).digest())


def make_credential(ek: rsa.RSAPublicKey, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """TPM2_MakeCredential: ``secret`` for the TPM that has ``ek``, to be given out to the key of this ``name`` (Part 1, section 24)."""
    seed = secrets.token_bytes(_SEED_BYTES)
    encrypted_seed = ek.encrypt(seed, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0"))
    # The initial value is zero by specification: each seed, and so each key, is used once.
    cipher = Cipher(algorithms.AES(_kdfa(seed, b"STORAGE", name, 128)), CFB(bytes(16))).encryptor()
    identity = cipher.update(len(secret).to_bytes(2) + secret) + cipher.finalize()
    mac = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", 256), identity + name, "sha256")
    return _sized(_sized(mac) + identity), _sized(encrypted_seed)


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa with HMAC-SHA-256 for at most one block (Part 1, section 11.4.10.2)."""
    return hmac.digest(key, (1).to_bytes(4) + label + b"\0" + context + bits.to_bytes(4), "sha256")[: bits // 8]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
