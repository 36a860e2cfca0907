"""Certificates, keys and signatures that are nearly right: what a lax reader would take."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest import certs
from confide.attest.certs import PLATFORM_CA_CN, PROCESSOR_CA_CN, SgxExtension, check_raw_signature, common_name, p256, parse_chain
from confide.attest.collateral_check import check_signers
from confide.attest.insecure import Installation
from confide.attest.insecure.installation import raw_signature
from confide.attest.quote import parse_quote
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import Tee

INTEL = Path(__file__).parents[2] / "vectors" / "intel"
CHAIN = parse_quote((INTEL / "sgx-v3-confighard.quote").read_bytes()).signature.cert_data
NO_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"
EXTENSION = SgxExtension(bytes(range(16)), tuple(range(16)), 11, bytes(16), b"\1\2", bytes(6), 1)


def test_block_that_is_no_certificate_is_refused_and_not_passed_over() -> None:
    blocks = [certificate.public_bytes(Encoding.PEM) for certificate in parse_chain(CHAIN)]
    assert len(parse_chain(b"".join(blocks))) == 3
    for at in range(4):
        with pytest.raises(ParseError, match="does not parse"):
            parse_chain(b"".join([*blocks[:at], NO_CERTIFICATE, *blocks[at:]]))


READER = """
import sys
from confide.attest import certs
from cryptography import x509
print(len([certs.whole(x509.load_der_x509_certificate(bytes.fromhex(line))) for line in sys.stdin]))
"""


def test_oddity_of_a_certificate_is_no_error_where_warnings_are() -> None:
    """AMD's have serial number 0; what is wrong with a certificate is for its checks to say, and not for an option of the interpreter."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.warns(UserWarning, match="Attribute's length"):
        odd = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "Nowhere", _validate=False)])
    builder = x509.CertificateBuilder().subject_name(odd).issuer_name(odd).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    given = (INTEL.parent / "snp" / "turin-v5.vcek.der").read_bytes().hex() + "\n" + made.public_bytes(Encoding.DER).hex()
    # In a Python of its own: pytest has filters of warnings of its own.
    read = subprocess.run([sys.executable, "-W", "error", "-c", READER], input=given, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stdout, read.stderr) == (0, "2\n", "")


def test_chain_has_at_most_four_certificates() -> None:
    block = parse_chain(CHAIN)[0].public_bytes(Encoding.PEM)
    assert len(parse_chain(block * 4)) == 4
    with pytest.raises(ParseError, match="not a chain"):
        parse_chain(block * 5)


def _certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]), datetime(2030, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())


def test_only_a_key_on_p256_is_one() -> None:
    good = ec.generate_private_key(ec.SECP256R1())
    assert p256(_certificate(good)) == good.public_key()
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(EvidenceInvalidError, match="not on P-256"):
            p256(_certificate(key))


def test_signature_has_one_length_even_if_the_numbers_are_the_same() -> None:
    """Where s begins with a zero byte, 63 bytes hold the same two numbers: a second form of one signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    signature = next(one for one in (raw_signature(key, b"data") for _ in range(20_000)) if one[32] == 0)
    check_raw_signature(key.public_key(), signature, b"data", "thing")
    short, padded = signature[:32] + signature[33:], signature[:32] + b"\0" + signature[32:]
    for second in (short, padded):
        with pytest.raises(EvidenceInvalidError, match="not 64 bytes"):
            check_raw_signature(key.public_key(), second, b"data", "thing")


def test_platform_instance_is_read() -> None:
    whole = dataclasses.replace(EXTENSION, platform_instance=bytes(range(16, 32)))
    assert SgxExtension.parse(whole.to_der()) == whole
    assert SgxExtension.parse(EXTENSION.to_der()) == EXTENSION
    assert SgxExtension.parse(EXTENSION.to_der()).platform_instance is None


def test_common_name_is_empty_unless_there_is_exactly_one() -> None:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("a", "b")]
    assert [common_name(x509.Name(names[:count])) for count in (0, 1, 2)] == ["", "a", ""]


def test_list_that_the_pck_ca_signed_under_another_name_is_refused(installation: Installation, now: datetime) -> None:
    root, ca = installation._signer("root"), installation._signer("platform-ca")
    assert common_name(ca.certificate.subject) == PLATFORM_CA_CN
    renamed = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PROCESSOR_CA_CN)])
    builder = x509.CertificateRevocationListBuilder().issuer_name(renamed).last_update(now).next_update(now + timedelta(days=1))
    crl = builder.add_extension(x509.CRLNumber(10**10), critical=False).sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER)
    good = installation.collateral(Tee.SGX)
    check_signers(good, root.certificate)
    with pytest.raises(CollateralError, match="not signed by its issuer"):
        check_signers(dataclasses.replace(good, pck_crl=crl), root.certificate)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"\x04\x00", b""),
        (b"\x04\x7f" + bytes(127), bytes(127)),
        (b"\x04\x81\x80" + bytes(128), bytes(128)),
        (b"\x04\x81\xff" + bytes(255), bytes(255)),
        (b"\x04\x82\x01\x00" + bytes(256), bytes(256)),
    ],
    ids=len,
)
def test_der_element_is_read_whole(data: bytes, content: bytes) -> None:
    assert certs._element(data, 0) == (4, content, len(data))
    assert certs._tlv(4, content) == data
    assert certs._element(b"\x05\x00" + data, 2) == (4, content, len(data) + 2)
    with pytest.raises(ParseError, match="ends early"):
        certs._element(data[:-1], 0)


@pytest.mark.parametrize(
    "data", [b"\x04\x80", b"\x04\x80" + bytes(128), b"\x04\x81\x7f" + bytes(127), b"\x04\x83\0\1\0" + bytes(256)], ids=len
)
def test_length_that_der_does_not_allow_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        certs._element(data, 0)


def test_number_of_the_extension_is_not_negative_and_of_at_most_three_bytes() -> None:
    assert [certs._small(value) for value in (b"\0", b"\x7f", b"\0\xff", b"\0\xff\xff")] == [0, 127, 255, 65535]
    assert all(certs._small(certs._integer(number)) == number for number in (0, 127, 128, 255, 256, 32767, 32768, 65535))
    for value in (b"", b"\x80", b"\xff\xff", b"\0\0\0\1"):
        with pytest.raises(ParseError, match="out of range"):
            certs._small(value)


def _with(field: bytes, **changes: bytes) -> bytes:
    """The extension with one more field, as raw DER."""
    body = certs._only(EXTENSION.to_der(), 0x30)
    return certs._tlv(0x30, body + field) + changes.get("after", b"")


def test_field_of_another_form_is_refused() -> None:
    prefix = bytes.fromhex("2a864886f84d010d01")
    assert SgxExtension.parse(_with(certs._member(prefix, 7, b"\x30\x00"))) == EXTENSION  # configuration, which Confide does not use
    oid, value = certs._tlv(0x06, prefix + b"\x07"), b"\x04\x00"
    for field in (
        certs._member(prefix, 5, b"\x0a\x01\x00"),  # a second time
        certs._member(prefix[:-1] + b"\x02", 7, value),  # another arc
        certs._tlv(0x31, oid + value),  # SET for SEQUENCE
        certs._tlv(0x30, certs._tlv(0x04, prefix + b"\x07") + value),  # no OID
        certs._tlv(0x30, oid + value + value),  # a third part
        certs._tlv(0x30, b"\x06\x00" + value),  # an empty OID
    ):
        with pytest.raises(ParseError, match="unknown or repeated"):
            SgxExtension.parse(_with(field))
    with pytest.raises(ParseError, match="documented form"):
        SgxExtension.parse(_with(b"", after=b"\0"))
    with pytest.raises(ParseError, match="documented form"):
        SgxExtension.parse(b"\x31" + EXTENSION.to_der()[1:])


def test_field_of_another_length_or_type_is_refused() -> None:
    for name, length in (("ppid", 15), ("cpu_svn", 17), ("pce_id", 3), ("fmspc", 5), ("platform_instance", 15)):
        with pytest.raises(ParseError, match="wrong length"):
            SgxExtension.parse(dataclasses.replace(EXTENSION, **{name: bytes(length)}).to_der())  # type: ignore[arg-type]
    der = EXTENSION.to_der()
    number = der.index(b"\x0a\x01\x01")
    with pytest.raises(ParseError, match="wrong type"):
        SgxExtension.parse(der[:number] + b"\x02" + der[number + 1 :])
