"""TLS to a key service: always verified, by name, and with nothing from the environment that would write its keys to a file."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from confide.errors import ConfigError


def verified_context(ca: Path | None) -> ssl.SSLContext:
    """A client's context that trusts the certificates in ``ca`` [default: the system's].

    Not ``ssl.create_default_context``: that one obeys ``SSLKEYLOGFILE``.

    Raises:
        ConfigError: the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca)
    except OSError as cause:  # ssl.SSLError is one
        raise ConfigError(f"cannot read the certificates in {ca}", path=str(ca)) from cause
    return context


def refuse_key_log() -> None:
    """For services that another's library speaks to: these obey ``SSLKEYLOGFILE``, and cannot be told not to.

    Raises:
        ConfigError: it is set.
    """
    if os.environ.get("SSLKEYLOGFILE"):
        raise ConfigError("SSLKEYLOGFILE would have the keys of connections written to a file", hint="start the broker without it")
