"""Rules of reading one file that BigDL PPML encrypted: what opens, and that nothing else does."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.bigdl_encoder import DIGITS, PRIMARY, SHORT, STRONG, Encoded, halves, padded, simple_pair, wrapped_by_aes

from confide.data.bigdl import CheckedFile, Header, check_file
from confide.data.bigdl_keys import DataKey, PrimaryKey
from confide.errors import ConfideError, DataError, IntegrityError, ParseError, UnwrapError, WeakKeyError

CSV = b"id,name\n1,ann\n2,bob\n"
IV = bytes(range(0xF0, 0x100))


def checked(file: Path, data: object = STRONG, *, name: str = "a.csv", weak: bool = False) -> CheckedFile:
    """Check ``file`` under the data key of that text, or by a primary key."""
    if isinstance(data, PrimaryKey):
        return check_file(file, name, lambda header: data.unwrap(header.wrapped), accept_weak=weak)
    key = DataKey.parse(str(data).encode())
    return check_file(file, name, lambda _: key, accept_weak=weak)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a file."""

    def write(data: object) -> Path:
        path = tmp_path / "part-0.csv.cbc"
        path.write_bytes(bytes(data))  # type: ignore[call-overload]
        return path

    return write


# --- what opens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "ciphertext", "mac"),
    [
        (
            STRONG,
            "15c501748ef3888f309868c6be9db9b7036057b72a69a915f2e859c1fdf0b8ce",
            "17007458b7156d272d2b9039d551304215b0d38231722ebc33f54f0af067dbed",
        ),
        (
            SHORT,
            "495c1fbbf7f90b3569e3e52593dcfbdb276e2dbf86d645899ad8572efaf970a7",
            "14059587d4872b2896cb1dc469f1f72897edccc139e0a5c40692240d1de722e0",
        ),
    ],
    ids=["44 letters", "24 letters"],
)
def test_file_that_openssl_encrypted_by_the_documents_words_opens(put, key: str, ciphertext: str, mac: str) -> None:
    """``openssl enc -aes-128-cbc`` and ``openssl dgst -hmac`` with the letters of the key's text, in hex."""
    encoded = Encoded(CSV, key, iv=IV)
    assert (encoded.ciphertext.hex(), encoded.mac.hex()) == (ciphertext, mac)
    assert checked(put(encoded), key, weak=True).open().read() == CSV


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, (1 << 20) - 17, (1 << 20) - 16, 1 << 20, (1 << 20) + 1, 2 << 20])
def test_plaintext_of_any_length_comes_out(put, length: int) -> None:
    plaintext = os.urandom(length)
    told: list[int] = []
    key = DataKey.parse(STRONG.encode())
    file = check_file(put(Encoded(plaintext)), "a.bin", lambda _: key, told=told.append)
    assert file.open(told.append).read() == plaintext
    assert sum(told) == 2 * (file.size - 432)


def test_plaintext_is_read_in_pieces_of_any_size(put) -> None:
    plaintext = os.urandom(100_000)
    stream = checked(put(Encoded(plaintext)), name="a.bin").open()
    pieces = [stream.read(1), stream.read(15), stream.read(70_000), stream.read(), stream.read()]
    assert b"".join(pieces) == plaintext
    assert stream.readable()
    stream.close()


def test_memory_does_not_grow_with_the_file(put) -> None:
    path = put(Encoded(bytes(24 << 20)))
    tracemalloc.start()
    stream = checked(path, name="a.bin").open()
    while stream.read(65_536):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 << 20


@pytest.mark.parametrize("wrapped", ["", "w", "no base64: 1", "w" * 376])
def test_header_with_any_key_name_that_fits_is_read(wrapped: str) -> None:
    header = Header.parse(Encoded(b"", wrapped=wrapped, iv=IV).header)
    assert (header.wrapped, header.iv) == (wrapped, IV)


# --- keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", [bytes(16), bytes(24), bytes(32)], ids=len)
def test_data_key_in_the_header_opens_under_the_primary_key(put, primary: bytes) -> None:
    import base64

    text = base64.b64encode(primary).decode()
    encoded = Encoded(CSV, SHORT, wrapped_by_aes(SHORT, text))
    assert checked(put(encoded), PrimaryKey.parse(text.encode() + b"\n"), weak=True).open().read() == CSV


def test_wrapping_is_what_openssl_makes() -> None:
    assert wrapped_by_aes(SHORT) == "QM9baEXGnQ8fnldakdvVKfxGyZQyi/l6YfWrsXkaFRU="


def test_simple_services_key_opens_under_its_digits(put) -> None:
    wrapped, key = simple_pair("0123456789012345")
    assert (wrapped[:6], len(wrapped), len(key)) == ("525555", 32, 32)  # 4+0, 6+1, 5+2 as letters' numbers
    path = put(Encoded(CSV, key, wrapped))
    assert checked(path, PrimaryKey.parse(DIGITS.encode()), weak=True).open().read() == CSV
    assert checked(path, key, weak=True).open().read() == CSV


@pytest.mark.parametrize("line", [STRONG, STRONG + "\n", STRONG + "\r\n"])
def test_key_file_has_one_line(line: str) -> None:
    assert DataKey.parse(line.encode()).mac.reveal() == STRONG[:16].encode()


@pytest.mark.parametrize(
    "text",
    ["", "\n", STRONG + "\n\n", " " + STRONG, STRONG[:-1], STRONG[:-2] + "9=", "A" * 32, "A" * 43, "é" * 22, STRONG + STRONG, "0" * 16],
)
def test_text_that_is_no_data_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ParseError) as refusal:
        DataKey.parse(text.encode())
    assert text.strip() not in f"{refusal.value} {refusal.value.facts}" or not text.strip()


@pytest.mark.parametrize("text", ["", "0" * 15, "0" * 17, SHORT[:-1], "QUJD", "-" * 24])
def test_text_that_is_no_primary_key_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        PrimaryKey.parse(text.encode())


@pytest.mark.parametrize("wrapped", ["", "no base64!", "AAAA", wrapped_by_aes(SHORT, SHORT), wrapped_by_aes("no key"), "5" * 32])
def test_wrapped_key_that_does_not_open_is_refused(wrapped: str) -> None:
    with pytest.raises(UnwrapError):
        PrimaryKey.parse(PRIMARY.encode()).unwrap(wrapped)


@pytest.mark.parametrize("wrapped", ["", "4" * 32, "48" * 15, "48" * 17, "58" * 16, wrapped_by_aes(SHORT)])
def test_key_that_the_simple_service_did_not_wrap_is_refused(wrapped: str) -> None:
    with pytest.raises(UnwrapError):
        PrimaryKey.parse(DIGITS.encode()).unwrap(wrapped)


@pytest.mark.parametrize(
    ("key", "said"), [(SHORT, "32 secret bits"), (simple_pair("0123456789012345")[1], "8 decimal digits")], ids=["24 letters", "digits"]
)
def test_key_that_can_be_tried_is_refused_unless_told(put, key: str, said: str) -> None:
    path = put(Encoded(CSV, key))
    with pytest.raises(WeakKeyError, match=said) as refusal:
        checked(path, key)
    assert (refusal.value.code, refusal.value.exit_status) == ("key-weak", 4)
    assert checked(path, key, weak=True).key.weakness is not None


def test_weak_key_under_a_strong_primary_key_is_weak(put) -> None:
    with pytest.raises(WeakKeyError):
        checked(put(Encoded(CSV, SHORT, wrapped_by_aes(SHORT))), PrimaryKey.parse(PRIMARY.encode()))


def test_short_key_is_as_weak_as_the_document_says() -> None:
    """Of 16 bytes of AES key 10 are the same for every data key, and the other six letters hold 32 bits."""
    cipher = DataKey.parse(SHORT.encode()).cipher.reveal()
    assert cipher[6:] == b"==" + bytes(8)
    assert SHORT[21] in "AQgw"  # base64 of 16 bytes: four bits of the last letter are zero


def test_keys_do_not_show() -> None:
    key, primary = DataKey.parse(STRONG.encode()), PrimaryKey.parse(PRIMARY.encode())
    shown = f"{key!r} {primary!r} {key} {primary} {key.mac!r} {key.cipher!r}"
    assert STRONG[:8] not in shown
    assert PRIMARY[:8] not in shown


# --- what does not open --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.bin"])
def test_any_byte_of_ciphertext_or_mac_changed_is_refused(put, name: str) -> None:
    whole = bytes(Encoded(CSV))
    for at in range(400, len(whole)):
        with pytest.raises(IntegrityError, match="MAC"):
            checked(put(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]), name=name)


def test_file_cut_anywhere_is_refused(put) -> None:
    whole = bytes(Encoded(CSV * 3))
    for end in range(len(whole)):
        with pytest.raises((ParseError, IntegrityError)):
            checked(put(whole[:end]))


def test_file_of_another_key_is_refused(put) -> None:
    with pytest.raises(IntegrityError, match="under another key"):
        checked(put(Encoded(CSV, STRONG)), STRONG[::-1].lstrip("=") + "=")


def test_file_with_the_right_mac_key_and_another_aes_key_is_refused(put) -> None:
    """Nothing authenticates a wrapped key, whose two halves ECB lets anybody put together: then the padding or the text must not fit."""
    import base64

    other = base64.b64encode(bytes(range(12)) + b"\xff" * 20).decode()
    assert halves(other)[0] == halves(STRONG)[0]
    with pytest.raises(IntegrityError, match="does not open"):
        checked(put(Encoded(CSV, STRONG, iv=IV)), other)


@pytest.mark.parametrize(
    "lengths",
    [(16, 7), (7, 15), (7, 17), (7, 0), (-1, 16), (377, 16), (2**31 - 1, 16), (-(2**31), 16), (0, -16), (400, 16), (8, 16), (6, 16)],
    ids=str,
)
def test_hostile_lengths_are_refused(put, lengths: tuple[int, int]) -> None:
    whole = bytes(Encoded(CSV, iv=b"x" + IV[1:]))
    # One letter more or less of the key moves the IV: that can only show as another IV does.
    with pytest.raises(IntegrityError if lengths == (8, 16) else ParseError):
        checked(put(b"".join(n.to_bytes(4, "big", signed=True) for n in lengths) + whole[8:]))


@pytest.mark.parametrize("length", [377, 380, 391, 392, 1000])
def test_wrapped_key_that_leaves_no_room_for_an_iv_is_refused(length: int) -> None:
    whole = length.to_bytes(4, "big") + (16).to_bytes(4, "big") + b"w" * length + bytes(16)
    with pytest.raises(ParseError):
        Header.parse(whole[:400])


def test_lengths_that_were_swapped_are_refused(put) -> None:
    whole = bytes(Encoded(CSV))
    with pytest.raises(ParseError):
        checked(put(whole[4:8] + whole[:4] + whole[8:]))


def test_every_byte_of_the_padding_counts() -> None:
    header = Encoded(b"").header
    for at in range(8 + len("wrapped") + 16, 400):
        with pytest.raises(ParseError, match="padding"):
            Header.parse(header[:at] + b"\x81" + header[at + 1 :])


def test_header_whose_key_is_no_text_is_refused() -> None:
    header = Encoded(b"").header
    for byte in (0, 0x0A, 0x1F, 0x7F, 0xC3, 0xFF):
        with pytest.raises(ParseError, match="no text"):
            Header.parse(header[:8] + bytes([byte]) + header[9:])


def test_earlier_header_is_refused_and_named(put) -> None:
    earlier = b"\x80" + (1_700_000_000).to_bytes(8, "big") + IV + bytes(2000)
    with pytest.raises(ParseError) as refusal:
        checked(put(earlier))
    assert "25 bytes" in str(refusal.value.hint)


@pytest.mark.parametrize("name", ["a.csv", "a.JSON", "a.txt", "year=1/part-0.csv"])
def test_iv_of_another_file_in_a_text_file_is_noticed_where_it_can_be(put, name: str) -> None:
    encoded = Encoded(CSV, iv=IV)
    other = replace(encoded, iv=bytes(16))
    with pytest.raises(IntegrityError, match="does not begin with text"):
        checked(put(other.header + encoded.ciphertext + encoded.mac), name=name)


def test_careful_change_of_the_first_block_gets_through_as_the_document_says(put) -> None:
    """Who knows the first block chooses what it becomes."""
    encoded = Encoded(CSV, iv=IV)
    iv = xor(IV, xor(CSV[:16], b"id,name\n1,eve\n2,"))
    path = put(replace(encoded, iv=iv).header + encoded.ciphertext + encoded.mac)
    assert checked(path).open().read() == b"id,name\n1,eve\n2,bob\n"


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def test_iv_changed_in_a_file_of_one_block_breaks_its_padding(put) -> None:
    encoded = Encoded(b"short", iv=IV)
    other = replace(encoded, iv=IV[:15] + b"\x00")
    with pytest.raises(IntegrityError, match="padding"):
        checked(put(other.header + encoded.ciphertext + encoded.mac), name="a.bin")


@pytest.mark.parametrize("text", ["é" * 30, "a" + "é" * 30, "€" * 30, "x" * 15 + "é", "\u0001sep\t\r\n" * 9, "é", "x" * 13 + "€"])
def test_text_of_any_letters_begins_like_text(put, text: str) -> None:
    assert checked(put(Encoded(text.encode()))).open().read() == text.encode()


def test_text_that_ends_in_half_a_letter_or_holds_a_zero_is_refused(put) -> None:
    for plaintext in (b"abc\xc3", b"a\0b", b"\0" * 40, b"\xff" * 40):
        with pytest.raises(IntegrityError):
            checked(put(Encoded(plaintext)))


# --- files that change -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 20, 100, 399], ids=["length", "IV", "padding", "end of header"])
def test_header_changed_after_it_was_checked_is_refused(put, at: int) -> None:
    path = put(Encoded(CSV))
    file, data = checked(path), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="changed while"):
        file.open().read()


def test_ciphertext_changed_after_it_was_checked_is_refused(put) -> None:
    path = put(Encoded(CSV * 100_000))
    file, data = checked(path), bytearray(path.read_bytes())
    data[1_500_000] ^= 1
    path.write_bytes(data)
    stream = file.open()
    with pytest.raises(IntegrityError, match="MAC"):
        stream.read()
    with pytest.raises(IntegrityError):  # an error is never followed by an end
        stream.read()


def test_small_file_changed_after_it_was_checked_gives_no_byte(put) -> None:
    path = put(Encoded(CSV))
    file, data = checked(path), bytearray(path.read_bytes())
    data[401] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        file.open().read(1)


def test_another_file_of_the_same_key_put_in_its_place_is_refused(put) -> None:
    encoded = Encoded(CSV, iv=IV)
    file = checked(put(encoded))
    other = Encoded(CSV.upper(), iv=bytes(16))
    put(encoded.header + other.ciphertext + other.mac)
    with pytest.raises(IntegrityError, match="changed while"):
        file.open().read()


@pytest.mark.parametrize("change", [b"x", b"", None], ids=["longer", "shorter", "gone"])
def test_file_that_grows_shrinks_or_goes_is_refused(put, change: bytes | None) -> None:
    path = put(Encoded(CSV))
    file = checked(path)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-40])
    with pytest.raises((IntegrityError, DataError)):
        file.open().read()


def test_file_that_shrinks_while_it_is_checked_is_refused(put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(Encoded(CSV))
    size = path.stat().st_size
    monkeypatch.setattr("confide.data.bigdl.open_regular", lambda p: Shrinking(p.read_bytes()[:-40], size, path))
    with pytest.raises(IntegrityError):
        checked(path)


class Shrinking(io.BytesIO):
    """Said to have the file's size, and gives less."""

    def __init__(self, data: bytes, size: int, path: Path) -> None:
        super().__init__(data)
        self._path = path

    def fileno(self) -> int:
        return os.open(self._path, os.O_RDONLY)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        checked(tmp_path)


def test_no_error_holds_key_or_plaintext(put) -> None:
    secrets = [STRONG, SHORT, CSV.decode(), "ann", *map(bytes.decode, halves(STRONG))]
    encoded = Encoded(CSV, iv=IV)
    broken = replace(encoded, iv=bytes(16))
    for data in (bytes(encoded)[:-1] + b"\0", broken.header + encoded.ciphertext + encoded.mac, bytes(encoded)[:450]):
        with pytest.raises(ConfideError) as refusal:
            checked(put(data))
        said = f"{refusal.value} {refusal.value.hint} {refusal.value.facts} {refusal.value.__cause__!r}"
        assert not [secret for secret in secrets if secret in said]


def test_padding_is_pkcs5() -> None:
    assert padded(b"") == b"\x10" * 16
