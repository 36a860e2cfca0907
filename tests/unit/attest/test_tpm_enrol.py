"""A challenge as a TPM reads it: TPM2_ActivateCredential by hand, with the endorsement key at hand.  With a real TPM: test_tpm_swtpm."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest.tpm_enrol import EK_CERTIFICATE, Challenge, challenge, make_credential
from confide.attest.tpm_format import FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN, Public

EK = rsa.generate_private_key(65537, 2048)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
NEEDED = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
NAME = b"\0\x0b" + hashlib.sha256(b"public area").digest()


def taken(raw: bytes) -> tuple[bytes, bytes]:
    """What is behind a length of two bytes, and what follows."""
    end = 2 + int.from_bytes(raw[:2])
    assert len(raw) >= end
    return raw[2:end], raw[end:]


def seed_of(encrypted: bytes) -> bytes:
    """Part 1, annex B.10.4."""
    sent, rest = taken(encrypted)
    assert rest == b""
    return EK.decrypt(sent, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0"))


def derived(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Part 1, section 11.4.10.2: one block of SHA-256."""
    block = b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4)
    return hmac.new(seed, block, "sha256").digest()[: bits // 8]


def activated(name: bytes, credential: bytes, encrypted: bytes) -> bytes:
    """Part 1, section 24: the secret, if the credential is for the key of this name."""
    seed = seed_of(encrypted)
    blob, rest = taken(credential)
    assert rest == b""
    mac, identity = taken(blob)
    assert len(mac) == 32
    if not hmac.compare_digest(mac, hmac.new(derived(seed, b"INTEGRITY", b"", 256), identity + name, "sha256").digest()):
        raise ValueError("TPM_RC_INTEGRITY")
    cipher = Cipher(algorithms.AES(derived(seed, b"STORAGE", name, 128)), CFB(bytes(16))).decryptor()
    secret, rest = taken(cipher.update(identity) + cipher.finalize())
    assert rest == b""
    return secret


@pytest.mark.parametrize("secret", [b"s", bytes(range(32))])
def test_secret_is_given_out_to_the_key_that_is_named(secret: bytes) -> None:
    assert activated(NAME, *make_credential(EK.public_key(), NAME, secret)) == secret


def test_secret_is_not_given_out_to_another_key() -> None:
    with pytest.raises(ValueError, match="TPM_RC_INTEGRITY"):
        activated(NAME[:-1] + b"\0", *make_credential(EK.public_key(), NAME, b"secret"))


def test_seed_is_as_long_as_the_endorsement_keys_hash_and_new_each_time() -> None:
    seeds = {seed_of(make_credential(EK.public_key(), NAME, b"secret")[1]) for _ in range(3)}
    assert {len(seed) for seed in seeds} == {32}
    assert len(seeds) == 3


def ek_chain() -> list[x509.Certificate]:
    """The endorsement key's certificate, and the manufacturer's root."""
    ca = ec.generate_private_key(ec.SECP256R1())
    leaf, root = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("TPM", "manufacturer"))
    made = []
    for subject, key, is_ca in ((leaf, EK.public_key(), False), (root, ca.public_key(), True)):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(root).public_key(key).serial_number(1)
        builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        use = x509.ExtendedKeyUsage([EK_CERTIFICATE])
        made.append((builder if is_ca else builder.add_extension(use, critical=True)).sign(ca, hashes.SHA256()))
    return made


def test_answer_is_a_fresh_secret_of_32_bytes_of_which_the_digest_is_kept() -> None:
    """No TPM gives out one that is longer than the hash of its endorsement key's name."""
    chain, key = ek_chain(), Public(NEEDED, "ecdsa", hashes.SHA256(), ec.generate_private_key(ec.SECP256R1()).public_key(), NAME)
    roots = {hashlib.sha256(chain[-1].public_bytes(Encoding.DER)).hexdigest()}
    first, second = (challenge(chain, key, roots, NOW) for _ in range(2))
    secret = activated(NAME, first.credential, first.encrypted_secret)
    assert (len(secret), hashlib.sha256(secret).digest()) == (32, first.answer_digest)
    assert first.answer_digest != second.answer_digest


def test_challenge_does_not_show_the_key_or_what_the_answer_is_known_by() -> None:
    key = Public(0, "ecdsa", hashes.SHA256(), ec.generate_private_key(ec.SECP256R1()).public_key(), NAME)
    assert repr(Challenge(b"c", b"s", key, bytes(32))) == "Challenge(credential=b'c', encrypted_secret=b's')"
