"""MRENCLAVE of a Gramine enclave, from the two files that are loaded into it: its manifest and ``libpal.so``.

Rules: Gramine's public documentation and what its signer measures, for releases from 1.4 (the first with ``sgx.max_threads``).  The
layout is Gramine's own and no standard: a release can change it, so a value that a signature says too (``sigstruct``) is worth more.

Not checked: that the manifest says anything sensible.  The digests of trusted files in it are part of what is measured; that they are
those of a build, :func:`check_trusted_files` says.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from confide.attest.launch.elf import PF_R, PF_W, PF_X, SharedObject
from confide.attest.launch.files import read_capped
from confide.attest.launch.sgx import PAGE, EnclaveMeasurement, PageFlags
from confide.attest.launch.values import SgxValues
from confide.canonical import parse_toml
from confide.errors import AppraisalError, ParseError, UsageError
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_MANIFEST_BYTES = 64 << 20
MAX_LIBPAL_BYTES = 64 << 20
MAX_THREADS = 4096

SSA_FRAME_PAGES, SSA_FRAMES = 4, 2
STACK_PAGES, SIGNAL_STACK_PAGES = 64, 16
HEAP_START = 0x10000
"""The lowest address that programs may have; the enclave itself begins at 0, to have room for those that are not relocatable."""
STACK_CANARY = 0xBADBADBADBAD
"""What a thread starts with, until it has made its own."""
GPR_BYTES = 184
"""SDM volume 3D, "GPRSGX region": at the end of each SSA frame."""
SEGMENT_LIMIT = PAGE - 1
_FILE_URI = re.compile(r"file:([^\0]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"(0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,18})([KMG]?)")
"""Gramine takes a number that begins with 0 for an octal one, readers of a manifest do not."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DEFAULT_SIZE, _DEFAULT_SIZE_EDMM, _DEFAULT_THREADS = "256M", "1024G", 4

_TCS = struct.Struct("<8xQQIIQQQQII4024x")
"""SDM volume 3D, "Thread Control Structure (TCS)": FLAGS, OSSA, CSSA, NSSA, OENTRY, AEP, OFSBASE, OGSBASE, FSLIMIT, GSLIMIT."""
_RW = PageFlags.R | PageFlags.W | PageFlags.REG


@dataclass(frozen=True, slots=True)
class Manifest:
    """What of a ``.manifest.sgx`` decides about the enclave; ``raw`` is loaded into it, byte by byte."""

    raw: bytes
    enclave_size: int
    max_threads: int
    edmm: bool
    isv_prod_id: int
    isv_svn: int
    trusted_files: tuple[tuple[str, str], ...]
    """Paths and the SHA-256 that each file has to have when it is opened."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a manifest as ``gramine-manifest`` and ``gramine-sgx-sign`` left it.

        Raises:
            ParseError: it is none, or asks for something whose layout is not known here.
        """
        try:
            sgx: Any = parse_toml(raw.decode("utf-8")).get("sgx", {})
        except (UnicodeDecodeError, ParseError) as cause:
            raise ParseError("the manifest is not TOML") from cause
        if not isinstance(sgx, dict):
            raise ParseError("the manifest is not one for SGX")
        if sgx.get("experimental_enable_aex_notify", False) is not False:
            raise ParseError("how an enclave with AEX-Notify is laid out is not known here")
        for old in ("thread_num", "nonpie_binary"):
            if old in sgx:
                raise ParseError(f"sgx.{old} is of Gramine before 1.4, whose layout is not known here")
        edmm = sgx.get("edmm_enable", False)
        if not isinstance(edmm, bool):
            raise ParseError("sgx.edmm_enable is not true or false")
        size = _size(sgx.get("enclave_size", _DEFAULT_SIZE_EDMM if edmm else _DEFAULT_SIZE))
        threads = _number(sgx, "max_threads", _DEFAULT_THREADS, MAX_THREADS)
        if not threads:
            raise ParseError("an enclave has at least one thread")
        product, svn = _number(sgx, "isvprodid", 0, 0xFFFF), _number(sgx, "isvsvn", 0, 0xFFFF)
        return cls(raw, size, threads, edmm, product, svn, _trusted_files(sgx.get("trusted_files", [])))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is, from the top of the enclave down.  The enclave begins at 0, so addresses are offsets too."""

    manifest: int
    ssa: int
    tcs: int
    tls: int
    stacks: tuple[int, ...]
    signal_stacks: tuple[int, ...]
    pal: int

    @classmethod
    def of(cls, manifest: Manifest, pal: SharedObject) -> Self:
        top, threads = manifest.enclave_size, manifest.max_threads

        def below(pages: int) -> int:
            nonlocal top
            top -= pages * PAGE
            if top < HEAP_START:
                raise ParseError("the enclave is too small for what is loaded into it", size=manifest.enclave_size)
            return top

        return cls(
            manifest=below(-(-(len(manifest.raw) + 1) // PAGE)),
            ssa=below(threads * SSA_FRAME_PAGES * SSA_FRAMES),
            tcs=below(threads),
            tls=below(threads),
            stacks=tuple(below(STACK_PAGES) for _ in range(threads)),
            signal_stacks=tuple(below(SIGNAL_STACK_PAGES) for _ in range(threads)),
            pal=below(pal.size // PAGE),
        )


def from_files(manifest: Path, libpal: Path, root: Path | None = None) -> SgxValues:
    """What an enclave of these two files will prove; its signer is not known from them.

    With ``root`` the trusted files are compared too, see :func:`check_trusted_files`.

    Raises:
        UsageError: a file cannot be read.
        ParseError: a file is not what it should be.
        AppraisalError: a trusted file is another.
    """
    parsed = Manifest.parse(read_capped(manifest, MAX_MANIFEST_BYTES))
    if root is not None:
        check_trusted_files(parsed, root)
    return measure(parsed, SharedObject.parse(read_capped(libpal, MAX_LIBPAL_BYTES)))


def check_trusted_files(manifest: Manifest, root: Path) -> None:
    """Compare every trusted file below ``root`` with its digest in the manifest.  Relative paths begin at ``root`` too.

    Raises:
        UsageError: a file cannot be read, or a link leads out of ``root``.
        AppraisalError: a file is another.
    """
    inside = root.resolve()
    for path, expected in manifest.trusted_files:
        place = (root / path.lstrip("/")).resolve()
        if not place.is_relative_to(inside):
            raise UsageError("a trusted file is outside of the folder", path=path, root=str(root))
        try:
            with open_regular(place) as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as cause:
            raise UsageError(f"cannot read {place}: {cause.strerror}", path=path) from cause
        if got != expected:
            raise AppraisalError(f"a trusted file is not the one of the manifest: {path}", check="sha256", expected=expected, got=got)


def measure(manifest: Manifest, pal: SharedObject) -> SgxValues:
    """The measurement, product and security version of the enclave."""
    layout = _Layout.of(manifest, pal)
    enclave = EnclaveMeasurement(manifest.enclave_size, SSA_FRAME_PAGES)
    text = manifest.raw + b"\0"  # in memory it ends like a C string
    for at in range(0, len(text), PAGE):
        enclave.add(layout.manifest + at, PageFlags.R | PageFlags.REG, text[at : at + PAGE].ljust(PAGE, b"\0"))
    threads = range(manifest.max_threads)
    _zeros(enclave, layout.ssa, manifest.max_threads * SSA_FRAME_PAGES * SSA_FRAMES)
    for thread in threads:
        enclave.add(layout.tcs + thread * PAGE, PageFlags.TCS, _tcs(layout, pal, thread))
    for thread in threads:
        enclave.add(layout.tls + thread * PAGE, _RW, _tls(layout, manifest, thread))
    for stack in layout.stacks:
        _zeros(enclave, stack, STACK_PAGES)
    for stack in layout.signal_stacks:
        _zeros(enclave, stack, SIGNAL_STACK_PAGES)
    for at, flags, content in _pal_pages(pal):
        enclave.add(layout.pal + at, flags, content)
    if not manifest.edmm:
        # The heap: added as it is, since the enclave zeroes it itself.  With EDMM, it is added when it is needed.
        flags = PageFlags.R | PageFlags.W | PageFlags.X | PageFlags.REG
        enclave.add_unmeasured(HEAP_START, flags, (layout.pal - HEAP_START) // PAGE)
    return SgxValues(mr_enclave=enclave.mr_enclave(), isv_prod_id=manifest.isv_prod_id, isv_svn=manifest.isv_svn)


def _zeros(enclave: EnclaveMeasurement, start: int, pages: int) -> None:
    for number in range(pages):
        enclave.add(start + number * PAGE, _RW, bytes(PAGE))


def _pal_pages(pal: SharedObject) -> Iterator[tuple[int, PageFlags, bytes]]:
    rights = {PF_R: PageFlags.R, PF_W: PageFlags.W, PF_X: PageFlags.X}
    for segment in pal.segments:
        flags = PageFlags.REG
        for bit, flag in rights.items():
            if segment.rights & bit:
                flags |= flag
        for at in segment.pages:
            yield at, flags, segment.page(at)


def _ssa(layout: _Layout, thread: int) -> int:
    return layout.ssa + thread * SSA_FRAME_PAGES * SSA_FRAMES * PAGE


def _tcs(layout: _Layout, pal: SharedObject, thread: int) -> bytes:
    own = layout.tls + thread * PAGE
    return _TCS.pack(0, _ssa(layout, thread), 0, SSA_FRAMES, layout.pal + pal.entry, 0, 0, own, SEGMENT_LIMIT, SEGMENT_LIMIT)


def _tls(layout: _Layout, manifest: Manifest, thread: int) -> bytes:
    """What a thread finds at its GS base: addresses that it needs before it can ask for anything (Gramine's ``pal_enclave_tcb``)."""
    ssa, stack, signal = _ssa(layout, thread), layout.stacks[thread], layout.signal_stacks[thread]
    page = bytearray(PAGE)
    fields = {
        0: layout.tls + thread * PAGE,
        8: STACK_CANARY,
        272: manifest.enclave_size,
        280: layout.tcs + thread * PAGE,
        288: stack + STACK_PAGES * PAGE,
        304: signal,
        312: signal + SIGNAL_STACK_PAGES * PAGE,
        328: ssa,
        336: ssa + SSA_FRAME_PAGES * PAGE - GPR_BYTES,
        416: len(manifest.raw) + 1,
        424: HEAP_START,
        432: layout.pal,
    }
    for at, value in fields.items():
        struct.pack_into("<Q", page, at, value)
    return bytes(page)


def _trusted_files(rows: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(rows, list):
        raise ParseError("sgx.trusted_files is not a list")
    found: dict[str, str] = {}
    for row in rows:
        uri, digest = (row.get("uri"), row.get("sha256")) if isinstance(row, dict) else (row, None)
        name = _FILE_URI.fullmatch(uri) if isinstance(uri, str) else None
        if name is None or name[1] in found:
            raise ParseError("a trusted file is not a file, or is listed twice", uri=str(uri))
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ParseError("a trusted file has no SHA-256", uri=str(uri), hint="name the .manifest.sgx that gramine-sgx-sign wrote")
        found[name[1]] = digest
    return tuple(found.items())


def _size(text: object) -> int:
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ParseError("sgx.enclave_size is no size", hint='write "1G", "512M" or a number of bytes, in quotes')
    return int(found[1], 0) * _UNITS[found[2]]


def _number(sgx: dict[str, Any], name: str, default: int, limit: int) -> int:
    value = sgx.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ParseError(f"sgx.{name} is not a number from 0 to {limit}")
    return value
