import dataclasses
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.attest.quote import MAX_AUTH_BYTES, SgxBody, TdBody, parse_quote, without_padding
from confide.errors import ParseError
from confide.ids import Tee

INTEL = Path(__file__).parents[2] / "vectors" / "intel"
REAL = sorted(p.name for p in INTEL.glob("*.quote"))
V3 = (INTEL / "sgx-v3-confighard.quote").read_bytes()
V4 = without_padding((INTEL / "tdx-v4-uptodate.quote").read_bytes())
V5 = (INTEL / "tdx-v5-uptodate.quote").read_bytes()
EACH = pytest.mark.parametrize("raw", [V3, V4, V5], ids=["v3", "v4", "v5"])


def test_all_real_quotes_are_here() -> None:
    assert len(REAL) == 14


@pytest.mark.parametrize("name", [n for n in REAL if n != "tdx-v4-below-all-levels.quote"])
def test_real_quote_is_read_and_written_back_byte_for_byte(name) -> None:
    raw = without_padding((INTEL / name).read_bytes())
    quote = parse_quote(raw)
    assert quote.to_bytes() == raw
    assert raw.startswith(quote.signed_bytes)
    assert quote.tee is (Tee.SGX if name.startswith("sgx") else Tee.TDX)
    assert quote.signature.qe_report.report_data == quote.signature.expected_qe_report_data


def test_debug_bit_of_real_quotes_is_read() -> None:
    for name in REAL:
        if name != "tdx-v4-below-all-levels.quote":
            quote = parse_quote(without_padding((INTEL / name).read_bytes()))
            assert quote.body.debug == ("debug" in name), name


def test_other_bytes_after_a_real_quote_are_not_padding() -> None:
    with pytest.raises(ParseError) as caught:
        without_padding((INTEL / "tdx-v4-below-all-levels.quote").read_bytes())
    assert caught.value.facts["offset"] == 4935


@EACH
@pytest.mark.parametrize("extra", [b"\0", b"\1", bytes(70)])
def test_quote_with_trailing_bytes_is_refused(raw, extra) -> None:
    with pytest.raises(ParseError, match="after the quote"):
        parse_quote(raw + extra)


@EACH
def test_quote_cut_anywhere_is_refused(raw) -> None:
    for length in range(len(raw)):
        with pytest.raises(ParseError):
            parse_quote(raw[:length])


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_quote_or_a_parse_error(data) -> None:
    for raw in (data, V4[:48] + data, V3[:432] + data, V5[:54] + data):
        try:
            quote = parse_quote(raw)
        except ParseError:
            continue
        assert quote.to_bytes() == raw


@settings(max_examples=300)
@given(st.sampled_from([V3, V4, V5]), st.data())
def test_changed_quote_is_refused_or_written_back_with_the_change(raw, data) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    value = data.draw(st.integers(0, 255))
    changed = raw[:at] + bytes([value]) + raw[at + 1 :]
    try:
        quote = parse_quote(changed)
    except ParseError:
        return
    assert quote.to_bytes() == changed


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, struct.pack("<H", 6)), (0, struct.pack("<H", 5)), (2, struct.pack("<H", 3)), (4, struct.pack("<I", 0)), (12, bytes(16))],
    ids=["version", "version-of-other-layout", "key-type", "tee-type", "vendor"],
)
def test_header_of_another_kind_is_refused(offset, value) -> None:
    with pytest.raises(ParseError):
        parse_quote(V4[:offset] + value + V4[offset + len(value) :])


def test_body_type_and_size_of_version_5_must_belong_together() -> None:
    for kind, size in ((2, 648), (3, 584), (1, 384), (4, 700)):
        with pytest.raises(ParseError, match="body"):
            parse_quote(V5[:48] + struct.pack("<HI", kind, size) + V5[54:])


def test_version_5_with_a_1_0_body_is_read() -> None:
    quote = parse_quote(V5)
    assert isinstance(quote.body, TdBody)
    short = dataclasses.replace(quote, body=dataclasses.replace(quote.body, tee_tcb_svn2=b"", mr_service_td=b""))
    assert parse_quote(short.to_bytes()) == short


def test_outer_certification_data_must_be_of_type_6_and_fill_the_signature() -> None:
    at = 48 + 584 + 4 + 128
    with pytest.raises(ParseError, match="type 6"):
        parse_quote(V4[:at] + struct.pack("<H", 5) + V4[at + 2 :])
    (size,) = struct.unpack_from("<I", V4, at + 2)
    with pytest.raises(ParseError, match="does not fill"):
        parse_quote(V4[: at + 2] + struct.pack("<I", size - 1) + V4[at + 6 :])


def test_authentication_data_above_the_cap_is_refused() -> None:
    quote = parse_quote(V3)
    large = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, auth_data=bytes(MAX_AUTH_BYTES + 1)))
    with pytest.raises(ParseError, match="too large"):
        parse_quote(large.to_bytes())


def test_sizes_that_would_need_gigabytes_are_refused() -> None:
    at = 48 + 384
    with pytest.raises(ParseError):
        parse_quote(V3[:at] + b"\xff\xff\xff\xff" + V3[at + 4 :])


def test_sgx_body_is_384_bytes() -> None:
    quote = parse_quote(V3)
    assert isinstance(quote.body, SgxBody)
    assert len(quote.body.to_bytes()) == 384
