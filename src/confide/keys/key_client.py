"""The owners' client for key-encryption keys: make, rotate, retire, destroy, and put datasets' keys under the newest version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from confide.canonical import Json
from confide.crypto.sign import PublicKey
from confide.errors import BrokerError
from confide.ids import KeyRef, SpkiDigest
from confide.keys.connection import Answer, Connection
from confide.keys.credentials import Credential
from confide.keys.key_records import KeyState


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What an owner sees of a key version: since when it is in its state, and how many datasets are under it."""

    version: int
    state: KeyState
    since: datetime
    datasets: int


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What an owner sees of a key: its newest version, how many datasets are under it, and its versions, the oldest first."""

    key: KeyRef
    created: datetime
    datasets: int
    versions: tuple[VersionInfo, ...]


@dataclass(frozen=True, slots=True)
class RewrapProgress:
    """How far a re-wrap has come: datasets whose keys are under ``key`` (its version) now, and how many are not yet."""

    key: KeyRef
    done: int
    left: int


class KeyClient:
    """Commands about keys: every one needs the credential that the broker has enrolled.

    ``name`` of a key is ``key`` or ``owner/key``.  All methods raise ``CredentialError`` if the broker does not know the credential or
    it may not do this, and ``BrokerError`` if the broker is down or answers anything unexpected.
    """

    def __init__(
        self,
        url: str,
        spki: SpkiDigest,
        credential: Credential,
        *,
        timeout: float = 10.0,
        token: Callable[[], str] | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """Connect when first used.  ``token``: where an issuer's tokens come from that say who this is, instead of the key.

        ``certificate`` (PEM) is the key's own that they are bound to.
        """
        self._credential = credential
        self._connection = Connection(url, spki, credential.identity(certificate), timeout, token=token)

    def create_key(self, name: str) -> KeyRef:
        """Make a key.  Raises ``UsageError`` if it exists."""
        return self._call("POST", "keys", {"key": self._id(name)}).key_ref()

    def rotate_key(self, name: str) -> KeyRef:
        """Make a new version of a key: new datasets use it, old ones keep theirs until :meth:`rewrap`."""
        return self._call("POST", "keys/rotate", {"key": self._id(name)}).key_ref()

    def retire_key(self, name: str, version: int) -> KeyInfo:
        """Let the active version take no new datasets.  Raises ``UsageError`` if it is not the active one."""
        return _info(self._call("POST", "keys/retire", {"key": self._id(name), "version": version}))

    def destroy_key(self, name: str, version: int, *, lose_datasets: bool = False) -> KeyInfo:
        """Keep nothing of a retired version.  Raises ``UsageError`` if datasets are under it, unless they may be lost."""
        body = {"key": self._id(name), "version": version, "lose_datasets": lose_datasets}
        return _info(self._call("POST", "keys/destroy", body))

    def keys(self) -> tuple[KeyInfo, ...]:
        """The owner's keys."""
        return read_keys(self._call("GET", "keys"))

    def rewrap(self, name: str) -> Iterator[RewrapProgress]:
        """Put every dataset's key under the newest version, a step at a time: what was said is done.

        Whoever stops here, or is stopped, goes on where it was by calling this again.
        """
        left = True
        while left:
            answer = self._call("POST", "keys/rewrap", {"key": self._id(name)})
            progress = RewrapProgress(answer.key_ref(), answer.field("done", int), answer.field("left", int))
            left = progress.left > 0
            yield progress

    def broker_key(self) -> PublicKey:
        """The broker's public key: its digest is the pinned one, and it signs audit heads."""
        return self._connection.broker_key()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _id(self, name: str) -> str:
        return name if "/" in name else f"{self._credential.name}/{name}"

    def _call(self, method: str, path: str, body: Json | None = None) -> Answer:
        return Answer(self._connection.call(method, f"/confide/v0/{path}", body)[0])


def read_keys(answer: Answer) -> tuple[KeyInfo, ...]:
    """The broker's answer about keys.

    Raises:
        BrokerError: it is none.
    """
    return tuple(_info(Answer(one)) for one in answer.objects("keys"))


def _info(answer: Answer) -> KeyInfo:
    versions = tuple(map(_version, answer.field("versions", list)))
    return KeyInfo(answer.key_ref(), answer.time("created"), answer.field("datasets", int), versions)


def _version(data: object) -> VersionInfo:
    answer = Answer(data if isinstance(data, dict) else {})
    try:
        state = KeyState(answer.field("state", str))
    except ValueError as cause:
        raise BrokerError("the broker's answer names an unknown state of a key", field="state") from cause
    return VersionInfo(answer.field("version", int), state, answer.time("since"), answer.field("datasets", int))
