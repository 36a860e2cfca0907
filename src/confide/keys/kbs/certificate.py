"""The certificate that guests trust: self-signed, of the broker's own key, kept in a file so that it is the same after a restart.

Our own nodes and owners pin the key and look at nothing else.  Guests' clients want a certificate for the name that they call.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from confide.crypto.identity import Identity, certificate_spki, one_certificate
from confide.crypto.sign import SigningKey
from confide.errors import ChannelError, UsageError

VALID_FOR: Final = timedelta(days=397)
"""The longest that clients take (CA/Browser Forum, Baseline Requirements, section 6.3.2)."""
RENEWED_BEFORE: Final = timedelta(days=30)
COMMON_NAME: Final = "confide-broker"


def kept_identity(path: Path, key: SigningKey, names: tuple[str, ...], now: datetime) -> Identity:
    """The broker's identity with the certificate in ``path``, which is made anew if it is not for this key, these names and a while longer.

    Raises:
        UsageError: a name is none, or the file cannot be written.
    """
    found = _read(path)
    if found is not None and _serves(found, key, names, now):
        return Identity(key, found)
    try:
        made = Identity.generate(COMMON_NAME, key=key, valid_for=VALID_FOR, names=names)
        path.write_bytes(made.certificate_pem)
    except ValueError as cause:
        raise UsageError(f"not names for a certificate: {', '.join(names)[:200]}") from cause
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause
    return made


def _read(path: Path) -> x509.Certificate | None:
    try:
        return one_certificate(path.read_bytes())
    except (OSError, ChannelError):
        return None


def _serves(found: x509.Certificate, key: SigningKey, names: tuple[str, ...], now: datetime) -> bool:
    try:
        own = certificate_spki(found) == key.spki_der
        said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ChannelError, x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    known = {str(name.value) for name in said}
    return own and known == set(names) and found.not_valid_after_utc - now > RENEWED_BEFORE
