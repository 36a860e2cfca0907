"""Where an issuer's token comes from: a private file, or a program that prints one.  Never the command line, and never kept.

Knows nothing of what is in a token.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.errors import CredentialError
from confide.regular_file import read_regular

if TYPE_CHECKING:
    from confide.config import Settings

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,65536}")
_COMMAND_S: Final = 60.0
_MAX_CERTIFICATE: Final = 64 * 1024


def token_source(settings: Settings) -> Callable[[], str] | None:
    """Where tokens come from, if the settings say; asked anew for each request, because tokens live for an hour at most.

    Raises:
        CredentialError: from two places.
    """
    if settings.token_file is not None and settings.token_command:
        raise CredentialError("a token comes from one place", hint="set token_file or token_command, not both")
    if settings.token_file is not None:
        return partial(_of_file, settings.token_file)
    return partial(_of_command, settings.token_command) if settings.token_command else None


def token_certificate(settings: Settings) -> bytes | None:
    """The certificate (PEM) that tokens are bound to, if the settings name one.

    Raises:
        CredentialError: it cannot be read.
    """
    path = settings.token_certificate_file
    if path is None:
        return None
    try:
        return read_regular(path, _MAX_CERTIFICATE)
    except OSError as cause:
        raise CredentialError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


def _of_file(path: Path) -> str:
    from confide.crypto.sign import read_private_file

    return _token(read_private_file(path), str(path))


def _of_command(command: str) -> str:
    try:
        words = shlex.split(command)
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_S, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as cause:
        reason = type(cause).__name__  # its text may hold what the program printed
        raise CredentialError("the program for tokens did not give one", hint="run token_command yourself", reason=reason) from None
    return _token(done.stdout, "token_command")


def _token(data: bytes, place: str) -> str:
    text = data.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise CredentialError("what should be a token is none", place=place)
    return text
