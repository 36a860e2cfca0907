"""The broker's key hierarchy: master key, key-encryption keys (versioned), dataset keys.  Everything above a dataset key stays here.

Who may have a dataset key is decided by the callers (``keys.broker``, ``keys.owners``), before they ask for it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from confide.canonical import Json
from confide.crypto.derive import KEY_BYTES
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.secret import SecretBytes
from confide.errors import GrantError, KeyDestroyedError, StoreError, UnwrapError, UsageError
from confide.ids import JobDigest, KeyRef, check_name, new_dataset_id
from confide.keys.key_outlines import KeyOutline
from confide.keys.key_records import Key, KeyState, KeyVersion
from confide.keys.records import Dataset
from confide.keys.store import Store


class KeyHierarchy:
    """Makes, versions and uses key-encryption keys over one store.  Callers hold the store's transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, owner: str, name: str, now: datetime, *, job: JobDigest | None = None) -> Key:
        """A new key-encryption key, version 1.

        Raises:
            UsageError: the owner has a key of that name.
        """
        check_name(name, "key name")
        if self._store.get(Key, f"{owner}/{name}") is not None:
            raise UsageError(f"the key {owner}/{name} exists", hint="rotate it, or choose another name")
        made = Key(owner, name, (self._new_version(owner, name, 1, now),), now, job)
        self._store.put(made)
        return made

    def rotate(self, key: Key, now: datetime) -> Key:
        """A new version, active from now on; the one that was is retired: what is under it stays readable."""
        if key.versions[-1].state is KeyState.ACTIVE:
            key = self.retire(key, len(key.versions), now)
        made = self._new_version(key.owner, key.name, len(key.versions) + 1, now)
        rotated = replace(key, versions=(*key.versions, made))
        self._store.put(rotated)
        return rotated

    def retire(self, key: Key, version: int, now: datetime) -> Key:
        """The key with its active version retired.

        Raises:
            UsageError: there is no such version, or it is not active.
        """
        state = key.state(version)
        if state is not KeyState.ACTIVE:
            raise UsageError(f"version {version} of {key.id} is {state}", hint="only the active version is retired")
        retired = key.with_version(version, replace(key.versions[version - 1], state=KeyState.RETIRED, since=now))
        self._store.put(retired)
        return retired

    def destroy(self, key: Key, version: int, now: datetime) -> Key:
        """The key with nothing left of one of its retired versions.  Whether anything is under it is the caller's business.

        Raises:
            UsageError: there is no such version, or it is not retired.
        """
        state = key.state(version)
        if state is not KeyState.RETIRED:
            hint = "retire it first, or rotate the key" if state is KeyState.ACTIVE else None
            raise UsageError(f"version {version} of {key.id} is {state}: only a retired one is destroyed", hint=hint)
        destroyed = key.with_version(version, KeyVersion(KeyState.DESTROYED, now, None))
        self._store.put(destroyed)
        return destroyed

    def for_output(self, owner: str, name: str, job: JobDigest, now: datetime) -> Key:
        """The key that outputs ``name`` of a job are under, made when first needed.

        Raises:
            GrantError: a job with the same first characters of its digest has this name: they never share a key.
        """
        found = self._store.get(Key, f"{owner}/{name}")
        if found is None:
            return self.create(owner, name, now, job=job)
        if found.job != job:
            raise GrantError("another job's outputs are under a key of this name", key=found.id)
        return found

    def mint(self, key: Key) -> tuple[WrappedKey, SecretBytes]:
        """A new dataset's key under the active version of ``key``: wrapped for its manifest (which names the dataset), and plain.

        Raises:
            UsageError: no version is active.
        """
        secret = SecretBytes.random()
        version = key.active.version
        wrapped = wrap(self._open(key, version), secret, key=key.id, version=version, dataset=new_dataset_id())
        return wrapped, secret

    def dataset_key(self, dataset: Dataset) -> SecretBytes:
        """The dataset's key.

        Raises:
            UnwrapError: the wrapped form was not made by this broker for this dataset.
            KeyDestroyedError: the version that it is under was destroyed.
            StoreError: its key-encryption key is gone or damaged.
        """
        with self.opening() as opened:
            return opened(dataset)

    @contextmanager
    def opening(self) -> Iterator[Callable[[Dataset], SecretBytes]]:
        """For the block, :meth:`dataset_key` of several datasets: custody is asked once for each key version."""
        known: dict[tuple[str, int], SecretBytes] = {}

        def opened(dataset: Dataset) -> SecretBytes:
            name = (dataset.wrapped.key, dataset.wrapped.version)
            if name not in known:
                known[name] = self._open(self._key_of(dataset), dataset.wrapped.version)
            return unwrap(known[name], dataset.wrapped)

        try:
            yield opened
        finally:
            for kek in known.values():
                kek.wipe()

    def outline(self, key: Key) -> tuple[KeyOutline, SecretBytes]:
        """What ``key`` is, and the bytes of its openable versions, one after the other.  The caller wraps them, and wipes these.

        Raises:
            KeyDestroyedError: there is none.
        """
        outline = KeyOutline.of(key)
        if not outline.openable:
            raise KeyDestroyedError("every version of the key was destroyed", key=key.id)
        return outline, SecretBytes(b"".join(self._open(key, number).reveal() for number in outline.openable))

    def take_over(self, outline: KeyOutline, secret: SecretBytes) -> Key:
        """The key that an outline is of, from elsewhere: made here if there is none of its name.

        Raises:
            UsageError: another key of that name is here: what both can open is not the same, or that is nothing.
            UnwrapError: ``secret`` is not as long as the openable versions are.
        """
        ref, opened = KeyRef.parse(outline.key), _apart(outline, secret)
        known = self._store.get(Key, ref.id)
        if known is not None:
            self._check_same(known, opened)
            return known
        versions: list[KeyVersion] = []
        for number, (state, since) in enumerate(outline.versions, start=1):
            kek = opened.get(number)
            wrapped = None if kek is None else self._store.kms.wrap(kek, context=kek_context(ref.owner, ref.name, number))
            versions.append(KeyVersion(state, since, wrapped))
        made = Key(ref.owner, ref.name, tuple(versions), outline.created)
        self._store.put(made)
        return made

    def _check_same(self, key: Key, opened: Mapping[int, SecretBytes]) -> None:
        there = {number for number, version in enumerate(key.versions, start=1) if version.wrapped is not None}
        same = [hmac.compare_digest(self._open(key, number).reveal(), opened[number].reveal()) for number in there & set(opened)]
        if not same or not all(same):
            raise UsageError(f"there is another key {key.id} at this broker", hint="a key is imported before one of its name is made")

    def check_there(self, dataset: Dataset) -> None:
        """Return if the key version that the dataset is under is there.

        Raises:
            KeyDestroyedError: it was destroyed.
            StoreError: the key is gone.
        """
        self._key_of(dataset).wrapped(dataset.wrapped.version)

    def rewrap(self, key: Key, datasets: Iterable[Dataset]) -> Iterator[Dataset]:
        """Datasets under older versions of ``key``, each with its key under the active one.

        Raises:
            UsageError: no version is active.
            UnwrapError, KeyDestroyedError: as :meth:`dataset_key`.
        """
        target = key.active.version
        opened = {target: self._open(key, target)}
        for dataset in datasets:
            version = dataset.wrapped.version
            if version not in opened:
                opened[version] = self._open(key, version)
            secret = unwrap(opened[version], dataset.wrapped)
            yield dataset.rewrapped(wrap(opened[target], secret, key=key.id, version=target, dataset=dataset.dataset))
            secret.wipe()
        for kek in opened.values():
            kek.wipe()

    def _key_of(self, dataset: Dataset) -> Key:
        ref = KeyRef.parse(dataset.wrapped.key)
        key = self._store.get(Key, ref.id)
        if key is None:
            raise StoreError("the key that a dataset is under is not in the store", key=ref.id)
        return key

    def _new_version(self, owner: str, name: str, version: int, now: datetime) -> KeyVersion:
        wrapped = self._store.kms.wrap(SecretBytes.random(), context=kek_context(owner, name, version))
        return KeyVersion(KeyState.ACTIVE, now, wrapped)

    def _open(self, key: Key, version: int) -> SecretBytes:
        return self._store.kms.unwrap(key.wrapped(version), context=kek_context(key.owner, key.name, version))


def kek_context(owner: str, name: str, version: int) -> Json:
    """What a version of a key is bound to where it is kept."""
    return {"use": "kek", "key": f"{owner}/{name}", "version": version}


def _apart(outline: KeyOutline, secret: SecretBytes) -> dict[int, SecretBytes]:
    """The openable versions that an outline's secret holds, by number."""
    if len(secret) != len(outline.openable) * KEY_BYTES:
        raise UnwrapError("a key's versions are not those that were wrapped", expected=len(outline.openable))
    data = secret.reveal()
    return {number: SecretBytes(data[at * KEY_BYTES : (at + 1) * KEY_BYTES]) for at, number in enumerate(outline.openable)}
