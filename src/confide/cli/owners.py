"""Who speaks to which broker: enrolment files, and the broker that each credential belongs to.

An enrolment file is made by the broker's operator for one owner: address and key of the broker, and a single-use token.  After
enrolment only address and key are kept, next to the credential.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import Json, parse_object
from confide.cli.token_source import token_certificate, token_source
from confide.errors import CredentialError, ParseError, UsageError
from confide.ids import SpkiDigest, check_name
from confide.regular_file import read_regular

if TYPE_CHECKING:
    from confide.config import Settings
    from confide.keys.client import OwnerClient
    from confide.keys.credentials import Credential
    from confide.keys.operator_client import OperatorClient

ENROLMENT_FORMAT = "confide-enrolment-v1"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and the SHA-256 of its public key."""

    url: str
    spki: SpkiDigest

    def to_json(self) -> Json:
        """The address as JSON."""
        return {"url": self.url, "spki": self.spki}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an operator hands to a new owner, by a safe way: whoever has it first can enrol under that name."""

    owner: str
    broker: BrokerAddress
    token: str

    def save(self, path: Path) -> None:
        """Write the file, readable by its user only.

        Raises:
            UsageError: it exists or cannot be written.
        """
        _write_private(path, {"format": ENROLMENT_FORMAT, "owner": self.owner, "token": self.token, **self.broker.to_json()})

    @classmethod
    def load(cls, path: Path) -> Enrolment:
        """Read an enrolment file.

        Raises:
            CredentialError: it cannot be read or is not one.
        """
        fields = _read(path)
        if fields.get("format") != ENROLMENT_FORMAT or set(fields) != {"format", "owner", "token", "url", "spki"}:
            raise CredentialError(f"{path} is not an enrolment file", hint="the broker's operator makes one with `confide broker enrol`")
        return cls(str(fields["owner"]), BrokerAddress(str(fields["url"]), SpkiDigest(str(fields["spki"]))), str(fields["token"]))


def serving_file(settings: Settings) -> Path:
    """Where a broker that serves from this home folder says so."""
    return settings.home / "broker" / "address.json"


def serving(settings: Settings) -> Json | None:
    """What the broker that serves from this home folder says of itself, if one does."""
    file = serving_file(settings)
    return parse_object(file.read_bytes()) if file.exists() else None


def serving_url(settings: Settings) -> str:
    """The address of the broker that serves from this home folder.

    Raises:
        UsageError: none does.
    """
    found = serving(settings)
    if found is None:
        hint = "start `confide broker serve` and wait until it serves (a sealed one waits for `confide broker unseal`), or give --url"
        raise UsageError("no broker serves from this home folder", hint=hint)
    return str(found["url"])


def remember(settings: Settings, name: str, broker: BrokerAddress) -> None:
    """Keep the broker of a credential next to it."""
    path = _address_path(settings, name)
    path.unlink(missing_ok=True)
    _write_private(path, broker.to_json())


def address_of(settings: Settings, name: str) -> BrokerAddress:
    """The broker that ``name`` is enrolled at.

    Raises:
        CredentialError: ``name`` has not been enrolled from here.
    """
    path = _address_path(settings, name)
    if not path.exists():
        raise CredentialError(f"{name} is not enrolled at a broker", hint=f"run `confide keys init {name} --enrolment FILE`")
    fields = _read(path)
    return BrokerAddress(str(fields.get("url")), SpkiDigest(str(fields.get("spki"))))


def client_of(settings: Settings, name: str | None, *, by_key: bool = False) -> OwnerClient:
    """A client of the broker for the credential ``name``, or for the only credential that there is.

    It is known by an issuer's token if the settings name where one comes from, unless ``by_key``; else by the credential's key.

    Raises:
        CredentialError: there is no such credential, or ``name`` is missing and there are several.
    """
    from confide.keys.client import OwnerClient

    credential = credential_of(settings, name)
    address = address_of(settings, credential.name)
    source = None if by_key else token_source(settings)
    return OwnerClient(address.url, address.spki, credential, token=source, certificate=token_certificate(settings))


def operator_of(settings: Settings, name: str) -> OperatorClient:
    """A client of the broker for the operator ``name``.  Raises as :func:`client_of`."""
    from confide.keys.operator_client import OperatorClient

    credential = credential_of(settings, name)
    address = address_of(settings, credential.name)
    return OperatorClient(address.url, address.spki, credential, token=token_source(settings), certificate=token_certificate(settings))


def credential_of(settings: Settings, name: str | None) -> Credential:
    """The credential ``name``, or the only one that there is.  Raises as :func:`client_of`."""
    from confide.keys.credentials import Credential

    return Credential.load(settings.credentials_dir, name if name is not None else _only_credential(settings))


def _only_credential(settings: Settings) -> str:
    names = sorted(path.name.removesuffix(".broker.json") for path in settings.credentials_dir.glob("*.broker.json"))
    if len(names) != 1:
        found = f"there are several credentials ({', '.join(names)})" if names else "there is no credential"
        raise CredentialError(found, hint="say whose with --as NAME" if names else "make one with `confide keys init NAME`")
    return names[0]


def _address_path(settings: Settings, name: str) -> Path:
    return settings.credentials_dir / f"{check_name(name, 'owner')}.broker.json"


_MAX_FILE = 1024 * 1024


def _read(path: Path) -> Json:
    try:
        return parse_object(read_regular(path, _MAX_FILE))
    except OSError as cause:
        raise CredentialError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    except ParseError as cause:
        hint = "it was cut or changed: ask the broker's operator for a new one (`confide broker enrol`)"
        raise CredentialError(f"{path} is not JSON", hint=hint, path=str(path)) from cause


def _write_private(path: Path, value: Json) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
