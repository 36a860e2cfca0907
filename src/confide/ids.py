"""Names for values that must not be mixed up.  Knows nothing but the standard library."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NewType

from confide.errors import UsageError

JobDigest = NewType("JobDigest", str)
"""SHA-384 of the job's RFC 8785 form, lower-case hex (96 characters)."""
RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
DatasetId = NewType("DatasetId", str)
"""32 lower-case hex characters (128 random bits), made once when the dataset is."""
Nonce = NewType("Nonce", bytes)
"""32 bytes from the verifier, single use."""
ReportData = NewType("ReportData", bytes)
"""64 bytes; never padded, never cut."""
SpkiDigest = NewType("SpkiDigest", str)
"""SHA-256 of a DER SubjectPublicKeyInfo, lower-case hex (64 characters)."""

JOB_PREFIX: Final = "job-"
"""Keys of jobs' outputs have owners' names that begin so; nobody can enrol under one."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_KNOWN_KEYS: Final = 4096
_VERSION = re.compile(r"[0-9]{1,9}")


class Tee(StrEnum):
    """Kinds of trusted execution environment that evidence can come from; and ``TPM``, which is none: it protects no memory in use."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    TPM = "tpm"


class Role(StrEnum):
    """Roles of a node.  The one-byte code goes into report data, so that evidence of one role is no evidence of another."""

    DRIVER = "driver"
    WORKER = "worker"
    BROKER = "broker"
    AGGREGATOR = "aggregator"

    @property
    def byte(self) -> bytes:
        """The role's code in report data (docs/formats/session-protocol.md)."""
        return _ROLE_CODES[self]


_ROLE_CODES: Final = {role: bytes([number]) for number, role in enumerate(Role, start=1)}


class Purpose(StrEnum):
    """What a data key is released for."""

    READ = "read"
    WRITE = "write"


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it is a plain name (lower-case letters, digits, ``. _ -``; 1 to 64 characters).

    Raises:
        UsageError: for anything else, so that a name can be used as a file name, URL part and SQL value.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"not a valid {what}: {name[:80]!r}", hint="use lower-case letters, digits, dot, dash and underscore (1 to 64)")
    return name


@dataclass(frozen=True, slots=True, order=True)
class KeyRef:
    """The public name of a key-encryption key: may be logged, pickled and sent.  ``version`` 0 means the newest."""

    owner: str
    name: str
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> KeyRef:
        """Read ``owner/name`` or ``owner/name@version``.

        Raises:
            UsageError: the text is not of that form.
        """
        return cls(*_parsed(text))

    @property
    def id(self) -> str:
        """``owner/name``: the key whatever its version."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return f"{self.id}@{self.version}" if self.version else self.id


def new_dataset_id() -> DatasetId:
    """A new random dataset id."""
    return DatasetId(secrets.token_hex(16))


def new_run_id(job_name: str) -> RunId:
    """A new run id: the beginning of the job's name and 48 random bits.  Short, because it is part of unix socket paths (108 bytes)."""
    return RunId(f"{job_name[:16]}-{secrets.token_hex(6)}")


@lru_cache(_KNOWN_KEYS)
def _parsed(text: str) -> tuple[str, str, int]:
    """Owner, name and version of a key; remembered, because each record of a dataset names one."""
    path, at, version = text.partition("@")
    owner, slash, name = path.partition("/")
    if not slash or (at and not _VERSION.fullmatch(version)):
        raise UsageError(f"not a key reference: {text[:120]!r}", hint="write owner/name or owner/name@version")
    return check_name(owner, "owner"), check_name(name, "key name"), int(version) if version else 0
