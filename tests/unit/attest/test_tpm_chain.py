"""Chains of a TPM's certificates, rule by rule: who may sign whom, for what, and when."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest import tpm_format
from confide.attest.event_log import EV_NO_ACTION, OF_TPM, Event, EventLog
from confide.attest.tpm import AK_CERTIFICATE, TpmCollateral, _check_log, _check_signature, _enrolled, check_attestation_key, check_chain
from confide.attest.tpm_enrol import EK_CERTIFICATE, Challenge, challenge
from confide.attest.tpm_format import Public, Signature
from confide.attest.tpm_trust import EnrolledKey
from confide.errors import EvidenceInvalidError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
MAX_VALIDITY = timedelta(days=90)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
CA = x509.BasicConstraints(ca=True, path_length=None)
NO_CA = x509.BasicConstraints(ca=False, path_length=None)
FOR_AK = x509.ExtendedKeyUsage([AK_CERTIFICATE])


def usage(*, signs: bool) -> x509.KeyUsage:
    rest = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False)
    return x509.KeyUsage(digital_signature=True, key_cert_sign=signs, encipher_only=False, decipher_only=False, **rest)


def name(number: int) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"certificate {number}")])


def chain(
    *extensions: list[x509.ExtensionType],
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + DAY,
    leaf: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | None = None,
) -> list[x509.Certificate]:
    """Leaf first; the last is its own issuer.  The leaf's time is as given, that of the others a year longer."""
    made = []
    for at, extensions_of in enumerate(extensions):
        issuer = min(at + 1, len(extensions) - 1)
        longer = timedelta(365 if at else 0)
        key = leaf if leaf is not None and at == 0 else KEYS[at].public_key()
        builder = x509.CertificateBuilder().subject_name(name(at)).issuer_name(name(issuer)).public_key(key)
        builder = builder.serial_number(1).not_valid_before(begins - longer).not_valid_after(ends + longer)
        for extension in extensions_of:
            builder = builder.add_extension(extension, critical=True)
        made.append(builder.sign(KEYS[issuer], hashes.SHA256()))
    return made


def checked(certificates: list[x509.Certificate], now: datetime = NOW) -> TpmCollateral:
    root = hashlib.sha256(certificates[-1].public_bytes(Encoding.DER)).hexdigest() if certificates else "none"
    return check_chain(certificates, {root}, AK_CERTIFICATE, now)


LEAF: list[x509.ExtensionType] = [NO_CA, FOR_AK]


def limited(length: int) -> list[x509.ExtensionType]:
    return [x509.BasicConstraints(ca=True, path_length=length)]


@pytest.mark.parametrize("extensions", [
    (LEAF, [CA]), (LEAF, [CA], [CA]), (LEAF, [CA], [CA], [CA]), ([FOR_AK], [CA]), (LEAF, [CA, usage(signs=True)]), (LEAF, limited(0)),
    (LEAF, limited(0), limited(1)), (LEAF, limited(0), limited(1), limited(2)), ([*LEAF, usage(signs=False)], [CA]),
    ([NO_CA, x509.ExtendedKeyUsage([EK_CERTIFICATE, AK_CERTIFICATE])], [CA]),
])  # fmt: skip
def test_chain_of_cas_that_may_sign_is_accepted(extensions: tuple[list[x509.ExtensionType], ...]) -> None:
    found = checked(chain(*extensions))
    assert datetime.fromisoformat(found.earliest_next_update) == NOW + DAY


@pytest.mark.parametrize(("extensions", "says"), [
    ((LEAF, []), "may not sign it"), ((LEAF, [NO_CA]), "may not sign it"), ((LEAF, [CA, usage(signs=False)]), "may not sign it"),
    ((LEAF, [CA], [NO_CA]), "may not sign it"), ((LEAF, [NO_CA], [CA]), "may not sign it"),
    ((LEAF, [usage(signs=True)]), "may not sign it"),
    ((LEAF, limited(0), limited(0)), "may not sign it"), ((LEAF, [CA], [CA], limited(1)), "may not sign it"),
    (([NO_CA], [CA]), "another use"), (([NO_CA, x509.ExtendedKeyUsage([EK_CERTIFICATE])], [CA]), "another use"),
    (([CA, FOR_AK], [CA]), "another use"), (([CA, FOR_AK],), "no root"),
])  # fmt: skip
def test_chain_of_others_is_refused(extensions: tuple[list[x509.ExtensionType], ...], says: str) -> None:
    with pytest.raises(EvidenceInvalidError, match=says):
        checked(chain(*extensions))


def test_chain_ends_at_a_pinned_root() -> None:
    good = chain(LEAF, [CA])
    for certificates, roots in (([], {"none"}), ([], set()), (good, set()), (good, {hashlib.sha256(b"other").hexdigest()})):
        with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
            check_chain(certificates, roots, AK_CERTIFICATE, NOW)


def test_each_certificate_is_signed_by_the_next() -> None:
    one, two = chain(LEAF, [CA], [CA]), chain(LEAF, [CA])
    with pytest.raises(EvidenceInvalidError, match="not signed by the next"):
        checked([one[0], one[2]])
    with pytest.raises(EvidenceInvalidError, match="not signed by the next"):
        checked([two[0], one[1], two[1]])


def test_each_certificate_is_valid_at_the_time() -> None:
    good = chain(LEAF, [CA])
    for moment in (NOW - DAY, NOW + DAY):
        assert checked(good, moment).root
    for moment in (NOW - DAY - SECOND, NOW + DAY + SECOND):
        with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
            checked(good, moment)
    old = chain(LEAF, [CA], begins=NOW - 800 * DAY, ends=NOW - 400 * DAY)
    with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
        checked([good[0], old[1]])


def test_enrolment_counts_from_its_first_to_its_last_second() -> None:
    key = EnrolledKey("000b" + "5a" * 32, "node-7", "cd" * 32, NOW, NOW + DAY)
    for moment in (NOW, NOW + DAY):
        assert _enrolled(key, moment) == TpmCollateral(key.name, key.until.isoformat())
    for moment in (NOW - SECOND, NOW + DAY + SECOND):
        with pytest.raises(EvidenceInvalidError, match="not enrolled for this time"):
            _enrolled(key, moment)


NEEDED = (
    tpm_format.FIXED_TPM | tpm_format.FIXED_PARENT | tpm_format.SENSITIVE_DATA_ORIGIN | tpm_format.RESTRICTED | tpm_format.SIGN
)  # fmt: skip


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 18])
def test_key_that_lacks_an_attribute_or_decrypts_is_refused(bit: int) -> None:
    """Bits of TPMA_OBJECT (Part 2, section 8.3): fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign; 17 is decrypt."""
    key = Public(NEEDED, "ecdsa", hashes.SHA256(), KEYS[0].public_key(), b"")
    check_attestation_key(key)
    check_attestation_key(replace(key, attributes=NEEDED | 1 << 6))
    for attributes in (NEEDED & ~(1 << bit), NEEDED | 1 << 17):
        with pytest.raises(EvidenceInvalidError, match="signs only what"):
            check_attestation_key(replace(key, attributes=attributes))


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHA256, SHA384 = hashes.SHA256(), hashes.SHA384()
Scheme = Literal["rsassa", "rsapss", "ecdsa"]


def signed(scheme: Scheme, data: bytes) -> Signature:
    if scheme == "ecdsa":
        return Signature(scheme, SHA256, decode_dss_signature(KEYS[0].sign(data, ec.ECDSA(SHA256))))
    form = padding.PSS(padding.MGF1(SHA256), padding.PSS.MAX_LENGTH) if scheme == "rsapss" else padding.PKCS1v15()
    return Signature(scheme, SHA256, RSA.sign(data, form, SHA256))


def key_of(scheme: Scheme) -> Public:
    return Public(NEEDED, scheme, SHA256, KEYS[0].public_key() if scheme == "ecdsa" else RSA.public_key(), b"name")


@pytest.mark.parametrize("scheme", ["rsassa", "rsapss", "ecdsa"])
def test_quote_is_signed_by_the_key_and_by_its_own_scheme(scheme: Scheme) -> None:
    good = signed(scheme, b"quote")
    _check_signature(key_of(scheme), good, b"quote")
    wrong: Any = (1, 2) if isinstance(good.value, tuple) else bytes(256)
    other: Any = b"x" * 256 if isinstance(good.value, tuple) else (1, 2)
    for signature, data, says in (
        (good, b"other", "does not verify"), (replace(good, value=wrong), b"quote", "does not verify"),
        (replace(good, value=other), b"quote", "another kind of key"), (replace(good, hash=SHA384), b"quote", "another scheme"),
    ):  # fmt: skip
        with pytest.raises(EvidenceInvalidError, match=says):
            _check_signature(key_of(scheme), signature, data)
    for foreign in {"rsassa", "rsapss", "ecdsa"} - {scheme}:
        with pytest.raises(EvidenceInvalidError, match="another scheme"):
            _check_signature(replace(key_of(scheme), scheme=foreign), good, b"quote")  # type: ignore[arg-type]
    with pytest.raises(EvidenceInvalidError, match="another kind of key"):
        _check_signature(replace(key_of(scheme), key=(RSA if scheme == "ecdsa" else KEYS[0]).public_key()), good, b"quote")


def extended(*digests: bytes) -> bytes:
    value = bytes(32)
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value


def log(*events: tuple[int, bytes]) -> EventLog:
    return EventLog(OF_TPM, tuple(Event(pcr, 0x80000006, digest, b"", 0) for pcr, digest in events))


def test_log_explains_every_quoted_register_of_the_firmware() -> None:
    one, start = b"\1" * 32, bytes(32)
    _check_log(log((0, one), (0, one)), {0: extended(one, one), 7: start, 8: b"\7" * 32})
    _check_log(EventLog(OF_TPM, ()), {0: b"\7" * 32})
    _check_log(log((8, one)), {8: extended(one), 9: b"\7" * 32})
    unlogged: list[tuple[Any, dict[int, bytes], str]] = [
        (log((0, one)), {0: extended(one), 7: b"\7" * 32}, "does not lead"),
        (log((0, one)), {0: extended(one, one)}, "does not lead"),
        (log((0, one)), {7: start}, "does not cover"),
        (log((8, one)), {0: start}, "does not cover"),
        (EventLog(OF_TPM, (Event(0, EV_NO_ACTION, one, b"", 0),)), {0: extended(one)}, "does not lead"),
    ]
    for events, pcrs, says in unlogged:
        with pytest.raises(EvidenceInvalidError, match=says):
            _check_log(events, pcrs)


def test_endorsement_key_is_of_the_kind_that_every_tpm_has() -> None:
    key = Public(NEEDED, "ecdsa", hashes.SHA256(), KEYS[0].public_key(), b"name")
    for size, good in ((2048, True), (3072, False), (0, False)):
        leaf = rsa.generate_private_key(public_exponent=65537, key_size=size).public_key() if size else KEYS[0].public_key()
        ek = chain([NO_CA, x509.ExtendedKeyUsage([EK_CERTIFICATE])], [CA], leaf=leaf)
        roots = {hashlib.sha256(ek[-1].public_bytes(Encoding.DER)).hexdigest()}
        if good:
            assert challenge(ek, key, roots, NOW).public is key
            with pytest.raises(EvidenceInvalidError, match="signs only what"):
                challenge(ek, replace(key, attributes=0), roots, NOW)
            with pytest.raises(EvidenceInvalidError, match="no root"):
                challenge(ek, key, set(), NOW)
            continue
        with pytest.raises(EvidenceInvalidError, match="another kind than RSA 2048"):
            challenge(ek, key, roots, NOW)
    edwards = chain([NO_CA, x509.ExtendedKeyUsage([EK_CERTIFICATE])], [CA], leaf=ed25519.Ed25519PrivateKey.generate().public_key())
    with pytest.raises(EvidenceInvalidError, match="another kind than RSA 2048"):
        challenge(edwards, key, {hashlib.sha256(edwards[-1].public_bytes(Encoding.DER)).hexdigest()}, NOW)


def test_certificate_of_an_attestation_key_is_short_lived_and_for_that_use() -> None:
    key = Public(NEEDED, "ecdsa", hashes.SHA256(), KEYS[0].public_key(), b"name")
    asked = Challenge(b"", b"", key, hashlib.sha256(b"answer").digest())
    issuer = chain([CA])[0]
    for valid in (timedelta(0), -DAY, MAX_VALIDITY + SECOND):
        with pytest.raises(ValueError, match="short-lived"):
            asked.certify(b"answer", issuer, KEYS[0], now=NOW, valid=valid)
    with pytest.raises(EvidenceInvalidError, match="not in the TPM"):
        asked.certify(b"other", issuer, KEYS[0], now=NOW, valid=DAY)
    made = asked.certify(b"answer", issuer, KEYS[0], now=NOW, valid=MAX_VALIDITY)
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (NOW, NOW + MAX_VALIDITY)
    basic, use = (made.extensions.get_extension_for_class(kind) for kind in (x509.BasicConstraints, x509.ExtendedKeyUsage))
    assert (basic.critical, basic.value, use.critical, list(use.value)) == (True, NO_CA, True, [AK_CERTIFICATE])
    assert checked([made, issuer]).root
    assert asked.certify(b"answer", issuer, KEYS[0], now=NOW, valid=SECOND).not_valid_after_utc == NOW + SECOND


def test_record_of_a_key_counts_for_some_time() -> None:
    key = Public(NEEDED, "ecdsa", hashes.SHA256(), KEYS[0].public_key(), b"name")
    asked = Challenge(b"", b"", key, hashlib.sha256(b"answer").digest())
    with pytest.raises(ValueError, match="a year"):
        asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=-SECOND)
    assert asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=SECOND).until == NOW + SECOND
    with pytest.raises(EvidenceInvalidError, match="not in the TPM"):
        asked.enrol(b"other", "node-7", "cd" * 32, now=NOW, valid=SECOND)
