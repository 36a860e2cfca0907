from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from confide.attest.certs import SgxExtension, check_raw_signature, common_name, parse_chain, raw_public_key
from confide.attest.insecure.installation import raw_signature
from confide.attest.quote import parse_quote
from confide.errors import EvidenceInvalidError, ParseError

INTEL = Path(__file__).parents[2] / "vectors" / "intel"
CHAIN = parse_quote((INTEL / "sgx-v3-confighard.quote").read_bytes()).signature.cert_data

extensions = st.builds(
    SgxExtension,
    ppid=st.binary(min_size=16, max_size=16),
    tcb=st.tuples(*[st.integers(0, 255)] * 16),
    pce_svn=st.integers(0, 65535),
    cpu_svn=st.binary(min_size=16, max_size=16),
    pce_id=st.binary(min_size=2, max_size=2),
    fmspc=st.binary(min_size=6, max_size=6),
    sgx_type=st.integers(0, 2),
)


def test_real_chain_is_leaf_ca_root() -> None:
    names = [common_name(certificate.subject) for certificate in parse_chain(CHAIN)]
    assert names == ["Intel SGX PCK Certificate", "Intel SGX PCK Processor CA", "Intel SGX Root CA"]


def test_real_extension_is_read() -> None:
    extension = SgxExtension.of(parse_chain(CHAIN)[0])
    assert (extension.fmspc.hex(), extension.pce_id, extension.pce_svn, extension.sgx_type) == ("00a067110000", b"\0\0", 13, 0)


def test_certificate_without_the_extension_is_refused() -> None:
    with pytest.raises(ParseError):
        SgxExtension.of(parse_chain(CHAIN)[1])


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\0",
        b"junk\n" + CHAIN,
        CHAIN.rstrip(b"\0") + b"junk",
        CHAIN + b"\0",
        CHAIN.rstrip(b"\0") * 2,
        CHAIN[:-40],
        CHAIN.replace(b"MII", b"AAA"),
    ],
    ids=["empty", "nul", "before", "after", "two-nuls", "too-long", "cut", "not-a-certificate"],
)
def test_chain_with_anything_else_is_refused(pem) -> None:
    with pytest.raises(ParseError):
        parse_chain(pem)


def test_chain_with_windows_line_ends_is_read() -> None:
    assert parse_chain(CHAIN.replace(b"\n", b"\r\n")) == parse_chain(CHAIN)


@given(extensions)
def test_extension_round_trip(extension) -> None:
    assert SgxExtension.parse(extension.to_der()) == extension


@given(extensions, st.data())
def test_cut_extension_is_refused(extension, data) -> None:
    der = extension.to_der()
    with pytest.raises(ParseError):
        SgxExtension.parse(der[: data.draw(st.integers(0, len(der) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_extension_or_a_parse_error(data) -> None:
    with pytest.raises(ParseError):
        SgxExtension.parse(data)


@given(extensions, st.data())
def test_changed_extension_is_refused_or_reads_differently(extension, data) -> None:
    der = bytearray(extension.to_der())
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = SgxExtension.parse(bytes(der))
    except ParseError:
        return
    assert changed != extension


def test_repeated_field_is_refused(installation) -> None:
    der = SgxExtension.of(parse_chain(CHAIN)[0]).to_der()
    body = der[4:]
    first = body[: 2 + body[1]]
    doubled = body + first
    with pytest.raises(ParseError, match="repeated"):
        SgxExtension.parse(b"\x30\x82" + len(doubled).to_bytes(2, "big") + doubled)


def test_raw_signature_is_checked() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signature = raw_signature(key, b"data")
    check_raw_signature(key.public_key(), signature, b"data", "thing")
    for wrong, data in ((signature, b"date"), (signature[:-1], b"data"), (bytes(64), b"data")):
        with pytest.raises(EvidenceInvalidError):
            check_raw_signature(key.public_key(), wrong, data, "thing")


def test_raw_public_key_is_x_and_y() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    numbers = key.public_numbers()
    assert raw_public_key(key) == numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def test_chain_is_written_as_it_is_read() -> None:
    chain = parse_chain(CHAIN)
    assert parse_chain(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)) == chain
