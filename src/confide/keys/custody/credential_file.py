"""Credentials for a custody (PINs, tokens, keys) come from files of mode 0600: never arguments, environment or settings.

Read anew each time, so that a token that something else renews is the one that is used.
"""

from __future__ import annotations

from pathlib import Path

from confide.crypto.secret import SecretBytes
from confide.crypto.sign import read_private_file
from confide.errors import CredentialError


def read_credential(path: Path) -> SecretBytes:
    """What the file holds, without a newline at its end.

    Raises:
        CredentialError: missing, open to others, or empty.
    """
    data = read_private_file(path).rstrip(b"\r\n")
    if not data:
        raise CredentialError(f"{path} is empty", path=str(path))
    return SecretBytes(data)
