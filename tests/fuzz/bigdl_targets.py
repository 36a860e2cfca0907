"""What BigDL PPML left behind: its encrypted files, as they come and with a MAC that is right, and key files."""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import Callable
from pathlib import Path

from support.bigdl_encoder import DIGITS, PRIMARY, SHORT, STRONG, Encoded, halves, simple_pair, wrapped_by_aes

from confide.data.bigdl import Header, check_file
from confide.data.bigdl_keys import DataKey, PrimaryKey

from .peer_targets import each

_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-bigdl-")
_KEY = DataKey.parse(STRONG.encode())
_PRIMARIES = tuple(PrimaryKey.parse(text.encode()) for text in (PRIMARY, DIGITS))
_IV = bytes(range(16))


def _file(data: bytes) -> None:
    path = Path(_FOLDER.name) / "part-0.csv.cbc"
    path.write_bytes(data)
    checked = check_file(path, "part-0.csv", lambda _: _KEY)
    plaintext = checked.open().read()
    if not 0 < len(data) - 432 - len(plaintext) <= 16:
        raise AssertionError("a file that was read is longer or shorter than its plaintext needs")


def file(data: bytes) -> None:
    """Changes behind the header are all refused, unless whoever made them has the MAC key."""
    sealed = data[400:-32]
    sealed = sealed[: len(sealed) // 16 * 16]
    repaired = data[:400] + sealed + hmac.digest(halves(STRONG)[0], sealed, "sha256")
    each(lambda: _file(data), lambda: _file(repaired))


def keys(data: bytes) -> None:
    """Key files, and the wrapped key in a header, which anybody may have written."""
    wrapped = data.decode("ascii", errors="replace")
    each(
        lambda: DataKey.parse(data),
        lambda: PrimaryKey.parse(data),
        lambda: Header.parse(data),
        *(lambda primary=primary: primary.unwrap(wrapped) for primary in _PRIMARIES),
    )


TARGETS: dict[str, Callable[[bytes], object]] = {"bigdl-file": file, "bigdl-keys": keys}

SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "bigdl-file": lambda: [bytes(Encoded(text, iv=_IV)) for text in (b"", b"id,name\n1,ann\n", b"id,name\n" * 40)],
    "bigdl-keys": lambda: [
        *(text.encode() for text in (STRONG, SHORT, PRIMARY, DIGITS, wrapped_by_aes(SHORT), *simple_pair("0123456789012345"))),
        Encoded(b"", iv=_IV).header,
    ],
}
