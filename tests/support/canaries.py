"""What a secret looks like where it must not be."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def forms_of(secret: bytes) -> set[bytes]:
    """A secret as raw bytes, hex (both cases) and base64 (both alphabets, whatever is around it)."""
    forms = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)[(shift * 8 + 5) // 6 :]
        whole = encoded.rstrip(b"=")[: (len(secret) * 8 - 6) // 6]
        forms |= {whole, whole.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


def files_under(folders: Iterable[Path]) -> Iterator[Path]:
    """Every regular file."""
    for folder in folders:
        for base, _, names in os.walk(folder):
            for name in names:
                path = Path(base) / name
                if path.is_file() and not path.is_symlink():
                    yield path


def found_in(data: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """The names of those that ``data`` holds in any form."""
    return {name for name, secret in secrets.items() if any(form in data for form in forms_of(secret))}


def found_under(folders: Iterable[Path], secrets: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Names of secrets, and the files that hold them or are named after them."""
    return {
        (name, str(path)) for path in files_under(folders) for name in found_in(path.read_bytes() + os.fsencode(str(path)), secrets)
    }
