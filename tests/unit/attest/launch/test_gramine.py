"""A Gramine enclave's measurement, held against a second computation: a picture of its memory, then read from top to bottom."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gramine import MANIFEST, PAGE, RX, SEGMENTS, libpal

from confide.attest.launch.elf import SharedObject
from confide.attest.launch.gramine import Manifest, check_trusted_files, from_files, measure
from confide.errors import AppraisalError, ParseError, UsageError

THREADS, SIZE, PAL_PAGES = 2, 2 << 20, 5


def with_code(rights: int) -> bytes:
    return libpal([SEGMENTS[0], (*SEGMENTS[1][:4], rights), SEGMENTS[2]])


def picture(manifest_text: str = MANIFEST, code: int = RX) -> list[tuple[int, int, bytes | None]]:
    """Every page of an enclave of two threads and 2 MiB, with SEGMENTS, in the order in which it is added.

    Address, SECINFO flags, and contents if they are measured.  ``code``: the rights of the second segment, in ELF's bits.
    """
    text, elf = manifest_text.encode() + b"\0", with_code(code)
    texts = [text[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(text), PAGE)]
    manifest = SIZE - len(texts) * PAGE
    ssa = manifest - THREADS * 8 * PAGE
    tcs = ssa - THREADS * PAGE
    tls = tcs - THREADS * PAGE
    stacks = [tls - (thread + 1) * 64 * PAGE for thread in range(THREADS)]
    signals = [stacks[-1] - (thread + 1) * 16 * PAGE for thread in range(THREADS)]
    pal = signals[-1] - PAL_PAGES * PAGE
    pages: list[tuple[int, int, bytes | None]] = [(manifest + at * PAGE, 0x201, page) for at, page in enumerate(texts)]
    pages += [(ssa + at * PAGE, 0x203, bytes(PAGE)) for at in range(THREADS * 8)]
    for thread in range(THREADS):
        page = struct.pack("<QQQIIQQQQII", 0, 0, ssa + thread * 8 * PAGE, 0, 2, pal + 0x1010, 0, 0, tls + thread * PAGE, 0xFFF, 0xFFF)
        pages.append((tcs + thread * PAGE, 0x100, page.ljust(PAGE, b"\0")))
    for thread in range(THREADS):
        own = ssa + thread * 8 * PAGE
        words = [tls + thread * PAGE, 0xBADBADBADBAD, *[0] * 32]  # the thread, its canary, 256 bytes for the library OS
        words += [SIZE, tcs + thread * PAGE, stacks[thread] + 64 * PAGE, 0, signals[thread], signals[thread] + 16 * PAGE]
        words += [0, own, own + 4 * PAGE - 184, *[0] * 9, len(text), 0x10000, pal]
        pages.append((tls + thread * PAGE, 0x203, struct.pack(f"<{len(words)}Q", *words).ljust(PAGE, b"\0")))
    for start, count in [*((stack, 64) for stack in stacks), *((stack, 16) for stack in signals)]:
        pages += [(start + at * PAGE, 0x203, bytes(PAGE)) for at in range(count)]
    memory = bytearray(PAL_PAGES * PAGE)
    code_flags = sum(flag for right, flag in ((4, 1), (2, 2), (1, 4)) if code & right)
    for offset, address, size, _, _ in SEGMENTS:
        memory[address : address + size] = elf[offset : offset + size]
    for page, flags in ((0, 0x201), (1, 0x200 | code_flags), (2, 0x200 | code_flags), (3, 0x203), (4, 0x203)):
        pages.append((pal + page * PAGE, flags, bytes(memory[page * PAGE :][:PAGE])))
    return pages + [(at, 0x207, None) for at in range(0x10000, pal, PAGE)]


def by_the_picture(pages: list[tuple[int, int, bytes | None]]) -> str:
    digest = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ", 4, SIZE) + bytes(44))
    for address, flags, content in pages:
        digest.update(b"EADD".ljust(8, b"\0") + struct.pack("<QQ", address, flags) + bytes(40))
        for at in range(0, PAGE, 256) if content is not None else ():
            digest.update(b"EEXTEND\0" + struct.pack("<Q", address + at) + bytes(48) + (content or b"")[at : at + 256])
    return digest.hexdigest()


def of(manifest: str = MANIFEST, pal: bytes | None = None) -> str:
    measured = measure(Manifest.parse(manifest.encode()), SharedObject.parse(libpal() if pal is None else pal))
    return measured.mr_enclave.hex()


def test_every_page_is_added_in_gramines_order() -> None:
    assert of() == by_the_picture(picture())


@pytest.mark.parametrize("rights", [1, 3, 5, 7])
def test_rights_of_a_segment_are_those_of_its_pages(rights: int) -> None:
    assert of(pal=with_code(rights)) == by_the_picture(picture(code=rights))


def padded(size: int, text: str = MANIFEST) -> str:
    """A manifest of so many bytes: it ends with a comment."""
    return (text + "#").ljust(size, "x")


@pytest.mark.parametrize("size", [PAGE - 1, PAGE, 2 * PAGE - 1, 2 * PAGE + 1])
def test_manifest_takes_whole_pages_with_the_zero_byte_at_its_end(size: int) -> None:
    assert of(padded(size)) == by_the_picture(picture(padded(size)))


def test_enclave_may_be_filled_down_to_the_lowest_address_of_programs() -> None:
    # 512 pages: 16 below the programs, 90 a thread, 5 of the library, and 41 of the manifest.
    threads = MANIFEST.replace("max_threads = 2", "max_threads = 5")
    assert of(padded(41 * PAGE - 1, threads)) != of(padded(41 * PAGE - 2, threads))
    with pytest.raises(ParseError, match="too small"):
        of(padded(41 * PAGE, threads))


def test_with_edmm_the_heap_is_not_added() -> None:
    manifest = MANIFEST + "sgx.edmm_enable = true\n"
    assert of(manifest) == by_the_picture([page for page in picture(manifest) if page[2] is not None])


def test_values_are_of_the_manifest_and_name_no_signer(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(MANIFEST)
    (tmp_path / "l").write_bytes(libpal())
    assert from_files(tmp_path / "m", tmp_path / "l").to_json() == {"tee": "sgx", "mrenclave": of(), "isv_prod_id": 5, "isv_svn": 9}
    with pytest.raises(UsageError, match="cannot read"):
        from_files(tmp_path / "m", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python3", "python4"), ('sha256 = "00', 'sha256 = "01'), ('"2M"', '"4M"'), ("max_threads = 2", "max_threads = 1"),
        ("error", "debug"),
    ],
)  # fmt: skip
def test_whatever_the_manifest_says_changes_it(old: str, new: str) -> None:
    assert of(MANIFEST.replace(old, new)) != of()


@settings(max_examples=60, deadline=None)
@given(at=st.sampled_from([*range(0x120, 0x300), *range(0x1000, 0x2200), *range(0x2E00, 0x3100)]))
def test_any_loaded_byte_of_the_library_changes_it(at: int) -> None:
    raw = bytearray(libpal())
    raw[at] ^= 1
    assert of(pal=bytes(raw)) != ORIGINAL


def test_bytes_that_are_not_loaded_do_not_change_it() -> None:
    raw = bytearray(libpal())
    raw[0x800] ^= 1
    raw[0x2D00] ^= 1
    assert of(pal=bytes(raw)) == ORIGINAL


ORIGINAL = of()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"2M"', '"3M"', "power of two"), ('"2M"', "2097152", "no size"), ('"2M"', '"2T"', "no size"), ('"2M"', '"512K"', "too small"),
        ("max_threads = 2", "max_threads = 0", "at least one"), ("max_threads = 2", "max_threads = true", "max_threads"),
        ("max_threads = 2", "thread_num = 2", "before 1.4"), ("isvsvn = 9", "nonpie_binary = true", "before 1.4"),
        ("isvsvn = 9", "isvsvn = 70000", "isvsvn"),
        ("isvsvn = 9", "edmm_enable = 1", "edmm_enable"),
        ("isvsvn = 9", "experimental_enable_aex_notify = true", "AEX-Notify"), ("isvsvn = 9", "isvsvn = ", "not TOML"),
        ("max_threads = 2", "max_threads = 5000", "max_threads"),
    ],
)  # fmt: skip
def test_manifest_that_asks_for_what_is_not_known_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(ParseError, match=said):
        of(MANIFEST.replace(old, new))


@pytest.mark.parametrize("name", ["isvprodid", "isvsvn"])
def test_product_and_version_have_16_bits(name: str) -> None:
    found = Manifest.parse(f"sgx.{name} = 65535".encode())
    assert {found.isv_prod_id, found.isv_svn} == {0, 65535}
    for value in ("65536", "-1", "true", "1.0", '"1"'):
        with pytest.raises(ParseError, match=name):
            Manifest.parse(f"sgx.{name} = {value}".encode())


@pytest.mark.parametrize(("raw", "says"), [(b"\xff", "not TOML"), (b"sgx = 1", "not one for SGX"), (b"# \0", "not TOML")])
def test_manifest_that_is_no_text_or_not_for_sgx_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        Manifest.parse(raw)


@pytest.mark.parametrize(
    ("text", "size"), [("1K", 1 << 10), ("2M", 2 << 20), ("1G", 1 << 30), ("4096", 4096), ("0x1000", 4096), ("0xaK", 10240), ("0", 0)]
)
def test_size_is_a_number_of_bytes_or_of_larger_units(text: str, size: int) -> None:
    assert Manifest.parse(f'sgx.enclave_size = "{text}"'.encode()).enclave_size == size


@pytest.mark.parametrize(
    "text", ["010", "9" * 5000, "0x" + "0" * 17, "1k", "-1", "", "1 M", "1MM", "0x", "1T", "1.5G"], ids=lambda text: text[:9]
)
def test_size_in_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="no size"):
        Manifest.parse(f'sgx.enclave_size = "{text}"'.encode())


def test_enclave_has_at_most_4096_threads() -> None:
    assert Manifest.parse(b"sgx.max_threads = 4096").max_threads == 4096
    with pytest.raises(ParseError, match="from 0 to 4096"):
        Manifest.parse(b"sgx.max_threads = 4097")


@pytest.mark.parametrize("name", ["m", "l"])
def test_manifest_and_library_have_at_most_64_mib(tmp_path: Path, name: str) -> None:
    (tmp_path / "m").write_text(MANIFEST)
    (tmp_path / "l").write_bytes(libpal())
    for size, refused in ((64 << 20, ParseError), ((64 << 20) + 1, UsageError)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        with pytest.raises(refused, match="too large" if refused is UsageError else "not"):
            from_files(tmp_path / "m", tmp_path / "l")


def test_trusted_files_are_compared_if_their_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(MANIFEST)
    (tmp_path / "l").write_bytes(libpal())
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "python3").write_bytes(b"another")
    with pytest.raises(AppraisalError, match="/usr/bin/python3"):
        from_files(tmp_path / "m", tmp_path / "l", tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        '["file:/usr/bin/python3"]', '[{ uri = "file:/a", sha256 = "00" }]', '[{ uri = "file:/a" }]', "7", "[7]",
        f'[{{ uri = "dev:tty", sha256 = "{"0" * 64}" }}]', f'[{{ uri = "file:", sha256 = "{"0" * 64}" }}]',
        f'[{{ uri = "file:a", sha256 = "{"0" * 64}" }}, {{ uri = "file:a", sha256 = "{"1" * 64}" }}]',
    ],
)  # fmt: skip
def test_manifest_that_does_not_pin_its_files_is_refused(rows: str) -> None:
    with pytest.raises(ParseError, match="trusted"):
        Manifest.parse(f"sgx.trusted_files = {rows}".encode())


def test_trusted_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "app").write_bytes(b"app")
    (tmp_path / "near").write_bytes(b"near")
    rows = [("/usr/app", b"app"), ("near", b"near")]
    listed = ", ".join(f'{{ uri = "file:{path}", sha256 = "{hashlib.sha256(data).hexdigest()}" }}' for path, data in rows)
    manifest = Manifest.parse(f"sgx.trusted_files = [{listed}]".encode())
    check_trusted_files(manifest, tmp_path)
    (tmp_path / "usr" / "app").write_bytes(b"apq")
    with pytest.raises(AppraisalError, match="/usr/app"):
        check_trusted_files(manifest, tmp_path)
    (tmp_path / "usr" / "app").unlink()
    with pytest.raises(UsageError, match="cannot read"):
        check_trusted_files(manifest, tmp_path)
    (tmp_path / "usr" / "app").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="outside"):
        check_trusted_files(manifest, tmp_path)


def test_defaults_are_gramines() -> None:
    found, edmm = Manifest.parse(b""), Manifest.parse(b"sgx.edmm_enable = true")
    assert (found.enclave_size, found.max_threads, found.edmm, found.isv_prod_id, found.isv_svn) == (256 << 20, 4, False, 0, 0)
    assert (edmm.enclave_size, edmm.edmm) == (1 << 40, True)
