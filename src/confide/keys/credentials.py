"""Credentials of owners and recipients: one private key file each, which opens the broker's owner commands and signs manifests.

A credential says who somebody is only after the broker's operator has enrolled it (``confide broker enrol``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from confide.crypto.identity import Identity, certificate_spki, one_certificate
from confide.crypto.sign import SigningKey
from confide.errors import CredentialError
from confide.ids import SpkiDigest, check_name

_SUFFIX = ".key.pem"


@dataclass(frozen=True, slots=True)
class Credential:
    """An owner's or recipient's name and private key.  Loaded and made only by the class methods below."""

    name: str
    key: SigningKey

    @classmethod
    def create(cls, folder: Path, name: str) -> Credential:
        """Make a new credential in ``folder`` (made with mode 0700 if missing), as ``<name>.key.pem`` of mode 0600.

        Raises:
            UsageError: not a valid owner name.
            CredentialError: a credential of that name exists, or the folder cannot be written.
        """
        check_name(name, "owner")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as cause:
            raise CredentialError(f"cannot make {folder}: {cause.strerror}", path=str(folder)) from cause
        key = SigningKey.generate()
        key.save_private(cls.path(folder, name))
        return cls(name, key)

    @classmethod
    def load(cls, folder: Path, name: str) -> Credential:
        """Read the credential of ``name`` from ``folder``.

        Raises:
            UsageError: not a valid owner name.
            CredentialError: there is none, other users can read it, or it is not a P-256 private key.
        """
        path = cls.path(folder, check_name(name, "owner"))
        if not path.exists():
            hint = f"make one with `confide keys init {name} --enrolment FILE`"
            raise CredentialError(f"there is no credential for {name}", hint=hint, path=str(path))
        return cls(name, SigningKey.load_private(path))

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        """Where the credential of ``name`` is kept in ``folder``."""
        return folder / f"{name}{_SUFFIX}"

    @property
    def spki(self) -> SpkiDigest:
        """The public name of the credential's key: what the broker registers and manifests are signed by."""
        return self.key.spki_digest

    def identity(self, certificate: bytes | None = None) -> Identity:
        """The credential as a TLS identity: under that certificate (PEM) for its key, or a new short-lived self-signed one.

        Raises:
            CredentialError: the certificate is another key's.
        """
        if certificate is None:
            return Identity.generate(self.name, key=self.key)
        made = Identity(self.key, one_certificate(certificate))
        if certificate_spki(made.certificate) != self.key.spki_der:
            raise CredentialError("the certificate is for another key than this credential's", hint="`confide keys certificate` makes one")
        return made
