"""Which TPMs are trusted, as the owner of a verifier says: nothing by default.  A value and its file; judges no evidence.

The file (``tpm/trust.json`` in the home folder, written by ``confide attest tpm``) is public: it names keys and holds none.  Whoever can
write it decides which TPMs are genuine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self

from confide.canonical import Json, parse_object
from confide.errors import ConfigError, EvidenceInvalidError, ParseError, UsageError
from confide.ids import check_name

RootUse = Literal["manufacturer", "issuer"]
TRUST_FORMAT: Final = "confide-tpm-trust-v1"
_FILE: Final = "trust.json"
_LOCK: Final = "trust.lock"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEY_NAME: Final = re.compile(r"000b[0-9a-f]{64}")
"""A TPM's name of a key: the number of SHA-256, and the SHA-256 of its public area (Part 1, section 16)."""
_FIELDS: Final = {"format", "manufacturers", "issuers", "keys", "revoked"}
_KEY_FIELDS: Final = {"name", "machine", "ek", "since", "until"}


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """The record of an attestation key that answered a challenge to its TPM's endorsement key.

    ``name``: the TPM's name of the key.  ``machine``: what its owner calls it.  ``ek``: SHA-256 of the endorsement key's certificate.
    """

    name: str
    machine: str
    ek: str
    since: datetime
    until: datetime

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        if not isinstance(data, dict) or set(data) != _KEY_FIELDS or not all(isinstance(value, str) for value in data.values()):
            raise ParseError("an enrolled key has exactly these text fields: " + ", ".join(sorted(_KEY_FIELDS)))
        try:
            since, until = datetime.fromisoformat(data["since"]), datetime.fromisoformat(data["until"])
            check_name(data["machine"], "machine")
        except (ValueError, UsageError) as cause:
            raise ParseError("an enrolled key has a time or a machine that is none") from cause
        if since.tzinfo is None or until.tzinfo is None or not (_KEY_NAME.fullmatch(data["name"]) and _DIGEST.fullmatch(data["ek"])):
            raise ParseError("an enrolled key has a name or time of another form")
        return cls(data["name"], data["machine"], data["ek"], since, until)

    def to_json(self) -> Json:
        """The record as JSON."""
        times = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return {"name": self.name, "machine": self.machine, "ek": self.ek, **times}


@dataclass(frozen=True, slots=True)
class TpmTrust:
    """Whose attestation keys are trusted: keys that are enrolled by name, and keys with a certificate under an issuer's root.

    ``manufacturers`` and ``issuers``: SHA-256 (DER, hex) of roots, for endorsement keys and for attestation keys.  The first never vouch
    for a quote: they are asked when a key is enrolled.  ``revoked``: names of keys that are refused whatever vouches for them.
    """

    issuers: frozenset[str] = frozenset()
    manufacturers: frozenset[str] = frozenset()
    keys: Mapping[str, EnrolledKey] = field(default_factory=lambda: MappingProxyType({}))
    revoked: frozenset[str] = frozenset()

    def check_not_revoked(self, name: str) -> None:
        """Return if the key of this name is not revoked.

        Raises:
            EvidenceInvalidError: it is: that is for good.
        """
        if name in self.revoked:
            raise EvidenceInvalidError("the attestation key is revoked", hint="revocation is for good: make another key", key=name)

    def keys_of(self, machine: str) -> tuple[str, ...]:
        """Names of the keys that are enrolled for a machine of this name."""
        return tuple(name for name, key in self.keys.items() if key.machine == machine)

    def has_revoked_key_of(self, ek: str) -> bool:
        """Whether a key of the TPM with this endorsement key (SHA-256 of its certificate) was enrolled, and revoked."""
        return any(key.ek == ek and name in self.revoked for name, key in self.keys.items())

    def with_key(self, key: EnrolledKey) -> Self:
        """The same with ``key`` enrolled.

        Raises:
            EvidenceInvalidError: it is revoked.
        """
        self.check_not_revoked(key.name)
        return replace(self, keys=MappingProxyType({**self.keys, key.name: key}))

    def without_key(self, name: str) -> Self:
        """The same with the key of this name revoked, enrolled here or not: an issuer's certificate for it counts no more either.

        Raises:
            UsageError: this is no key's name.
        """
        if not _KEY_NAME.fullmatch(name):
            raise UsageError("not the name of a TPM's key", got=name[:80], hint="`confide attest tpm list` has the names of enrolled keys")
        return replace(self, revoked=self.revoked | {name})

    def with_root(self, use: RootUse, root: str) -> Self:
        """The same with one more trusted root (SHA-256, hex)."""
        if use == "manufacturer":
            return replace(self, manufacturers=self.manufacturers | {root})
        return replace(self, issuers=self.issuers | {root})

    def without_root(self, root: str) -> Self:
        """The same without this root (SHA-256, hex), whatever it was trusted for.

        Raises:
            UsageError: it is not trusted.
        """
        if root not in self.manufacturers | self.issuers:
            raise UsageError("no such root is trusted", got=root[:80], hint="`confide attest tpm list` has the trusted roots")
        return replace(self, manufacturers=self.manufacturers - {root}, issuers=self.issuers - {root})

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        if set(data) != _FIELDS or data["format"] != TRUST_FORMAT:
            raise ParseError(f"not trust in TPMs of format {TRUST_FORMAT}")
        if not isinstance(data["keys"], list):
            raise ParseError("keys are a list")
        keys = {key.name: key for key in map(EnrolledKey.from_json, data["keys"])}
        if len(keys) != len(data["keys"]):
            raise ParseError("a key is enrolled twice")
        issuers, manufacturers = (_texts(data, name, _DIGEST) for name in ("issuers", "manufacturers"))
        return cls(issuers, manufacturers, MappingProxyType(keys), _texts(data, "revoked", _KEY_NAME))

    def to_json(self) -> Json:
        """The trust as JSON."""
        return {
            "format": TRUST_FORMAT,
            "manufacturers": sorted(self.manufacturers),
            "issuers": sorted(self.issuers),
            "keys": [self.keys[name].to_json() for name in sorted(self.keys)],
            "revoked": sorted(self.revoked),
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What the file in ``folder`` says; nothing is trusted if there is none.

        Raises:
            ConfigError: the file cannot be read, or says something else.
        """
        path = folder / _FILE
        try:
            return cls.from_json(parse_object(path.read_bytes()))
        except FileNotFoundError:
            return cls()
        except OSError as cause:
            raise ConfigError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
        except ParseError as cause:
            raise ConfigError(f"{path}: {cause.message}", path=str(path)) from cause

    @classmethod
    def update(cls, folder: Path, change: Callable[[Self], Self]) -> Self:
        """Change the file in ``folder``, whole or not at all; two who change it at once do it one after the other.

        Raises:
            ConfigError: it cannot be read or written.
        """
        path = folder / _FILE
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                changed = change(cls.load(folder))
                draft = path.with_suffix(".tmp")
                with draft.open("w", encoding="utf-8") as file:
                    file.write(json.dumps(changed.to_json(), indent=1) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # a revocation that was answered is not lost with the power
                draft.replace(path)
        except OSError as cause:
            raise ConfigError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause
        return changed


def _texts(data: Json, name: str, form: re.Pattern[str]) -> frozenset[str]:
    found = data[name]
    if not isinstance(found, list) or not all(isinstance(one, str) and form.fullmatch(one) for one in found):
        raise ParseError(f"{name} is not a list of hex of the right length")
    return frozenset(found)
