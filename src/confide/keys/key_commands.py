"""Owners' commands about their key-encryption keys: make, rotate, retire, destroy, and put datasets' keys under the newest version.

Plaintext of a key-encryption key is in memory only, and never in an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.errors import CredentialError, UsageError
from confide.ids import KeyRef
from confide.keys.callers import Callers
from confide.keys.key_records import Key, KeyState
from confide.keys.records import Dataset, version_ref
from confide.keys.sessions import Peer
from confide.keys.storage.contents import BUCKETS
from confide.keys.withdrawals import withdrawn

PART: Final = 200
"""Datasets whose keys one step of a re-wrap puts under the newest version, about: everybody else waits while it is under way."""
_MOST_READ: Final = 3000
"""Datasets that one step looks at: those of a key lie among everybody's."""
_FEW: Final = BUCKETS // 2
"""So many datasets under a version are asked for by name, for each of which a bucket is read; for more, each bucket is read once."""


@dataclass(frozen=True, slots=True)
class Rewrap:
    """How far a key's re-wrap has come: where the walk through the store goes on, and how many datasets are done."""

    kind: ClassVar[str] = "rewrap"
    key: str
    place: int = 0
    done: int = 0

    @property
    def id(self) -> str:
        """The key (``owner/name``)."""
        return self.key

    @property
    def ref(self) -> str:
        """The owner's name."""
        return KeyRef.parse(self.key).owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"key": self.key, "place": self.place, "done": self.done}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["key"], data["place"], data["done"])


class KeyCommands(Callers):
    """Each command writes the audit log, refusals included."""

    def create_key(self, peer: Peer, name: str) -> Json:
        """Make the key ``owner/name``, version 1.

        Raises:
            CredentialError: the client is not that owner.
            UsageError: the key exists, or the name is none.
        """
        with self._command("create-key", peer, {"key": name[:130]}) as owner, self._store.transaction():
            ref = KeyRef.parse(name)
            if ref.owner != owner.name:
                raise CredentialError("this credential does not own that key", owner=owner.name, key=ref.id)
            self._quotas.charge(owner.tenant, "keys")
            made = self._keys.create(ref.owner, ref.name, self._clock())
            self._note("create-key", owner, key=made.id, version=1)
            return self._key_json(made)

    def rotate_key(self, peer: Peer, name: str) -> Json:
        """Add a version to an own key: it is active from now on, the one that was is retired.  Raises as :meth:`create_key`."""
        with self._command("rotate-key", peer, {"key": name[:130]}) as owner, self._store.transaction():
            rotated = self._keys.rotate(self._own_key(owner, name), self._clock())
            self._note("rotate-key", owner, key=rotated.id, version=rotated.newest.version)
            return self._key_json(rotated)

    def retire_key(self, peer: Peer, name: str, version: int) -> Json:
        """Let the active version of an own key take no new datasets; it opens those that it has.

        Raises:
            CredentialError: the client is not that owner.
            UsageError: there is no such key or version, or it is not the active one.
        """
        with self._command("retire-key", peer, {"key": name[:130], "version": version}) as owner, self._store.transaction():
            retired = self._keys.retire(self._own_key(owner, name), version, self._clock())
            self._note("retire-key", owner, key=retired.id, version=version)
            return self._key_json(retired)

    def destroy_key(self, peer: Peer, name: str, version: int, *, lose_datasets: bool) -> Json:
        """Keep nothing of a retired version of an own key.  What is under it can never be opened again: only with ``lose_datasets``.

        Copies of the store that were made before (backups, a PostgreSQL server's own log) still hold it, wrapped under the master key.

        Raises:
            CredentialError: the client is not that owner.
            UsageError: there is no such key or version, it is not retired, or there are datasets under it.
        """
        with self._command("destroy-key", peer, {"key": name[:130], "version": version}) as owner, self._store.transaction():
            key = self._own_key(owner, name)
            key.state(version)
            lost = self._under(key, version)
            if lost and not lose_datasets:
                hint = f"put them under the newest version first: `confide keys rewrap {key.id}`"
                raise UsageError(f"{lost} datasets are under version {version} of {key.id}", hint=hint, datasets=lost)
            destroyed = self._keys.destroy(key, version, self._clock())
            withdrawn(self._store)
            self._note("destroy-key", owner, key=key.id, version=version, lost=lost)
            answer = self._key_json(destroyed)
        self._store.scrub()
        return answer

    def keys(self, peer: Peer) -> Json:
        """The client's own keys; for an auditor, those of everybody whom the auditor sees.  Never their bytes."""
        with self._command("list-keys", peer, {}) as owner:
            return {"keys": [self._key_json(key) for name in self._tenants.sees(owner) for key in self._store.find(Key, name)]}

    # --- putting datasets' keys under the newest version ----------------------------------------------------------------

    def rewrap(self, peer: Peer, name: str) -> Json:
        """Put the next few datasets' keys under the newest version of an own key; ask again until nothing is ``left``.

        Each call is one step: it has happened as a whole or not at all, and the next one goes on from there, whoever was ended meanwhile.
        Data and manifests stay as they are.

        Raises:
            CredentialError: the client is not that owner.
            UsageError: there is no such key, or no version of it is active.
        """
        with self._command("rewrap", peer, {"key": name[:130]}) as owner, self._store.transaction():
            key = self._own_key(owner, name)
            active = key.active
            progress = self._store.get(Rewrap, key.id) or Rewrap(key.id)
            older = {version: count for version in self._openable(key) if (count := self._under(key, version))}
            found, place = self._some(key, older, progress.place) if older else ([], 0)
            self._store.put_all(self._keys.rewrap(key, found))
            progress = replace(progress, place=place, done=progress.done + len(found))
            left = sum(older.values()) - len(found)
            if left:
                self._store.put(progress)
            else:
                self._store.delete(Rewrap, key.id)
            self._note("rewrap", owner, key=key.id, version=active.version, done=progress.done, left=left)
        return {"key": key.id, "version": active.version, "done": progress.done, "left": left}

    @staticmethod
    def _openable(key: Key) -> list[int]:
        """The retired versions."""
        return [number for number, version in enumerate(key.versions, start=1) if version.state is KeyState.RETIRED]

    def _some(self, key: Key, older: dict[int, int], place: int) -> tuple[list[Dataset], int]:
        """Some datasets under older versions, and where to look for more."""
        version, count = min(older.items(), key=lambda item: item[1])
        if count <= _FEW:
            return self._store.some_under(Dataset, version_ref(KeyRef(key.owner, key.name, version)), PART), place
        refs = {version_ref(KeyRef(key.owner, key.name, version)) for version in older}
        found: list[Dataset] = []
        read = 0
        for behind, part in self._store.walk(Dataset, start=place):
            found += [dataset for dataset in part if dataset.ref in refs]
            place, read = behind, read + len(part)
            if len(found) >= PART or read >= _MOST_READ:
                return found, place
        return found, 0

    # --- inside ------------------------------------------------------------------------------------------------------

    def _under(self, key: Key, version: int) -> int:
        return self._store.count(Dataset, version_ref(KeyRef(key.owner, key.name, version)))

    def _key_json(self, key: Key) -> Json:
        versions = [
            {"version": number, "state": version.state.value, "since": version.since.isoformat(), "datasets": self._under(key, number)}
            for number, version in enumerate(key.versions, start=1)
        ]
        return {
            "key": key.id,
            "version": key.newest.version,
            "created": key.created.isoformat(),
            "datasets": sum(version["datasets"] for version in versions),
            "versions": versions,
        }
