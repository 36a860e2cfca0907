"""Making a dataset on the command line: under which key, whose signature, where.  What is put into it comes from the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.dataset_keys import KEY_FILE
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.cli.output import Context
    from confide.config import Settings
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import PublicKey
    from confide.data.column_groups import NewGroup
    from confide.data.manifest import Manifest
    from confide.data.places import Place
    from confide.data.snapshots import SignedManifest
    from confide.data.sources import Source
    from confide.data.staging import Attempt, NewKey
    from confide.data.tables import TableInput
    from confide.ids import DatasetId, KeyRef
    from confide.keys.client import OwnerClient

_OPTIONS = (
    click.option("--key", metavar="OWNER/NAME", help="The broker's key to encrypt under; its owner signs the dataset."),
    click.option("--key-resource", metavar="URI", help="Instead: kbs://HOST:PORT/repository/type/tag, whose value is in --key-file."),
    KEY_FILE,
    click.option("--as", "who", metavar="NAME", help="With --key-resource: whose credential signs [default: the only one there is]."),
    click.option("--name", help="Name of the dataset [default: the folder's name]."),
)


def under_one_key(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that :meth:`NewDataset.of` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def check_one_key(key: str | None, key_resource: str | None, key_file: Path | None, who: str | None) -> None:
    """Return if the options of :func:`under_one_key` name one key.

    Raises:
        UsageError: they name none, or two.
    """
    given = (key is not None, key_resource is not None, key_file is not None)
    if given not in {(True, False, False), (False, True, True)} or (key is not None and who is not None):
        raise UsageError("a dataset is under one key", hint="give --key OWNER/NAME, or --key-resource URI with --key-file FILE")


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot's manifest.  ``before``: an earlier command had made it by the same work, and this one had nothing to do."""

    manifest: Manifest
    before: bool

    def facts(self, folder: Place) -> Json:
        """What a command says of it; on standard error, too, if it had nothing to do."""
        from confide.cli.output import say

        if not self.before:
            return facts(folder, self.manifest)
        say(f"nothing to do: the same command had made snapshot {self.manifest.snapshot} before", err=True)
        return {**facts(folder, self.manifest), "made_before": True}


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset that is to be made at ``folder``, where nothing was when this was made."""

    folder: Place
    name: str
    key: str | None
    key_resource: str | None
    key_file: Path | None
    who: str | None
    column_keys: tuple[str, ...] = ()
    resume: bool = False
    mode: str = "error"

    @classmethod
    def of(cls, folder: Place, *, name: str | None, resume: bool = False, **under: Any) -> NewDataset:
        """Check the options of :func:`under_one_key`.  ``resume``: an earlier command may have begun it, and even have put it in place.

        ``mode``: what the same command would do with a dataset.

        ``column_keys``: ``OWNER/NAME=COLUMN,COLUMN`` for each column group.

        Raises:
            UsageError: it would be under no key or two, or a column under a resource.
            OutputExistsError: ``folder`` exists.
        """
        from confide.ids import check_name

        made = cls(folder, check_name(name if name is not None else folder.name, "dataset name"), **under, resume=resume)
        check_one_key(made.key, made.key_resource, made.key_file, made.who)
        if made.column_keys and made.key is None:
            raise UsageError("columns have keys of the broker, and so has their table", hint="give --key OWNER/NAME")
        if not resume:
            made.refuse_existing()
        return made

    def refuse_existing(self) -> None:
        """Return if nothing is at the folder.

        Raises:
            OutputExistsError: something is.
        """
        from confide.data.sent_files import refuse_existing

        refuse_existing(self.folder)

    def make(self, context: Context, source: TableInput | Sequence[Source]) -> Made:
        """Encrypt ``source`` and sign the manifest: the whole dataset, or nothing.

        Raises:
            UsageError: it is no table, and columns are to have keys of their own.
            ConfideError: the broker refuses, or as :func:`confide.data.commit.create_dataset` says.
        """
        from confide.data.tables import TableInput

        if self.column_keys and not isinstance(source, TableInput):
            hint = "leave --column-key out, or say with --format what the table is in"
            raise UsageError("only tables have columns with keys of their own", hint=hint)
        if self.key_resource is not None and self.key_file is not None:
            return self._under_resource(context, source, self.key_resource, self.key_file)
        return self._under_key(context, source, str(self.key))

    def _made(
        self, settings: Settings, source: object, place: _Place, create: Callable[..., SignedManifest], **named: str
    ) -> Made:
        """What ``create`` makes of a new key, or of that of an earlier command that is gone on with; or what that had made already."""
        from confide.data.remote_staging import attempt_at, resumed_at
        from confide.data.staging import open_kept, task_of

        task = task_of(source, name=self.name, **named)
        kek = resume_key(settings, needed=self.resume)
        staged: AbstractContextManager[Attempt]
        if self.resume and kek is not None:
            done = self._made_before(source, task, place)
            staged = resumed_at(self.folder, task, journals=settings.uploads_dir, open_key=open_kept(kek), done=done)
        else:
            staged = attempt_at(self.folder, journals=None if task is None or kek is None else settings.uploads_dir)
        with staged as attempt:
            if attempt.done is not None:
                return Made(attempt.done.unverified, before=True)
            key = attempt.key
            if key is None:
                self.refuse_existing()
                key = place.mint()
                if task is not None and kek is not None:
                    attempt.begin_new(task, key, kek)
            if attempt.journal is not None:
                attempt.task = self._task(source, task, key.dataset)
            made = create(dataset=key.dataset, dataset_key=key.secret, wrapped=key.wrapped, protected=key.groups, attempt=attempt)
            return Made(made.unverified, before=False)

    def _task(self, source: object, task: str | None, dataset: DatasetId) -> str | None:
        """What the same command would be about to do once the dataset is there: with ``--mode append`` it would add to it."""
        from confide.data.staging import task_of

        return task if self.mode == "error" else task_of(source, dataset=dataset, mode=self.mode)

    def _made_before(self, source: object, task: str | None, place: _Place) -> SignedManifest | None:
        """The snapshot of the dataset that is in place which the same command made, if it is this dataset at all."""
        from confide.data.manifest import MANIFEST_NAME
        from confide.data.places import is_there
        from confide.data.snapshots import load_manifest
        from confide.data.work import snapshot_made_by

        if task is None or not is_there(self.folder / MANIFEST_NAME):
            return None
        newest = load_manifest(self.folder)
        there = newest.unverified
        if (there.name, there.key, there.owner, there.signer) != (self.name, place.key, place.owner, place.signer):
            return None
        return snapshot_made_by(self._task(source, task, there.dataset), newest, place.open_key(newest))

    def _under_key(self, context: Context, source: TableInput | Sequence[Source], key: str) -> Made:
        from confide.cli.output import progress
        from confide.cli.owners import client_of
        from confide.data.commit import create_dataset
        from confide.data.staging import NewKey
        from confide.ids import KeyRef
        from confide.keys.credentials import Credential

        ref = KeyRef.parse(key)
        if ref.version:
            raise UsageError("data is encrypted under a key's newest version", hint=f"write {ref.id}")
        asked = _asked_groups(ref, self.column_keys)
        signer = Credential.load(context.settings.credentials_dir, ref.owner).key
        with client_of(context.settings, ref.owner) as client:

            def mint() -> NewKey:
                groups = _minted(client, asked)
                minted = client.mint_dataset(ref.name)
                return NewKey(minted.dataset, minted.secret, minted.wrapped, groups)

            def open_key(newest: SignedManifest) -> SecretBytes:
                return client.open(newest.envelope).secret

            place = _Place(ref.id, ref.owner, signer.public, mint, open_key)
            create = partial(create_dataset, source, self.folder, name=self.name, owner=ref.owner, signer=signer, now=datetime.now(UTC),
                             register=client.register_manifest, progress=progress)  # fmt: skip
            return self._made(context.settings, source, place, create, key=ref.id, **_told(asked))

    def _under_resource(self, context: Context, source: TableInput | Sequence[Source], uri: str, key_file: Path) -> Made:
        from confide.cli.output import progress
        from confide.cli.owners import credential_of
        from confide.crypto.secret import SecretBytes
        from confide.crypto.sign import read_private_file, write_private_file
        from confide.data.commit import create_dataset
        from confide.data.staging import NewKey
        from confide.ids import new_dataset_id
        from confide.keys.kbs.dataset_key import key_of, open_dataset_key, resource_of_key, wrap_dataset_key

        _, resource = resource_of_key(uri)
        credential = credential_of(context.settings, self.who)
        if not key_file.exists():
            write_private_file(key_file, SecretBytes.random().reveal())
        kept, owner = SecretBytes(read_private_file(key_file)), credential.name

        def mint() -> NewKey:
            dataset, secret = new_dataset_id(), SecretBytes.random()
            return NewKey(dataset, secret, wrap_dataset_key(kept, secret, owner=owner, name=resource, dataset=dataset))

        def open_key(newest: SignedManifest) -> SecretBytes:
            return open_dataset_key(kept, newest.unverified.wrapped, owner=owner, name=resource)

        place = _Place(key_of(owner, resource).id, owner, credential.key.public, mint, open_key)
        create = partial(create_dataset, source, self.folder, name=self.name, owner=owner, signer=credential.key, now=datetime.now(UTC),
                         progress=progress)  # fmt: skip
        return self._made(context.settings, source, place, create, resource=str(resource), owner=owner)


@dataclass(frozen=True, slots=True)
class _Place:
    """Under which key and whose signature a dataset is made: how its key is made, and how that of a dataset that is there is opened."""

    key: str
    owner: str
    signer: PublicKey
    mint: Callable[[], NewKey]
    open_key: Callable[[SignedManifest], SecretBytes]


def _asked_groups(table: KeyRef, given: Sequence[str]) -> dict[KeyRef, tuple[str, ...]]:
    """The keys and columns of column groups that ``--column-key`` asks for.

    Raises:
        UsageError: one is not of that form, or its key is the table's, another group's, or another owner's.
    """
    from confide.ids import KeyRef

    asked: dict[KeyRef, tuple[str, ...]] = {}
    for text in given:
        key, _, columns = text.partition("=")
        ref = KeyRef.parse(key)
        names = tuple(name.strip() for name in columns.split(","))
        if ref.version or not all(names):
            raise UsageError(f"not a column group: {text[:120]!r}", hint="write OWNER/NAME=COLUMN,COLUMN")
        if ref.owner != table.owner or ref in {table, *asked}:
            raise UsageError(f"{ref.id} cannot be a column group's key", hint="each has one of its own, of the same owner", table=table.id)
        asked[ref] = names
    return asked


def _told(asked: Mapping[KeyRef, tuple[str, ...]]) -> dict[str, str]:
    """The groups as a part of what a command does: one that asks for others does not go on with its work."""
    return {f"columns of {ref.id}": ",".join(columns) for ref, columns in asked.items()}


def _minted(client: OwnerClient, asked: Mapping[KeyRef, tuple[str, ...]]) -> tuple[NewGroup, ...]:
    """Column groups with new keys."""
    from confide.data.column_groups import ColumnGroup, NewGroup

    found = []
    for ref, names in asked.items():
        minted = client.mint_dataset(ref.name)
        found.append(NewGroup(ColumnGroup(ref.name, names, minted.wrapped), minted.secret))
    return tuple(found)


def resume_key(settings: Settings, *, needed: bool) -> SecretBytes | None:
    """This user's key for the dataset keys in journals, made when first wanted; ``None`` if it can be neither read nor made.

    Raises:
        CredentialError: so it is, and it is needed.
    """
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import read_private_file, write_private_file
    from confide.errors import CredentialError

    place = settings.home / "resume.key"
    try:
        if not place.exists():
            with suppress(CredentialError):  # another command is faster
                write_private_file(place, SecretBytes.random().reveal())
        return SecretBytes(read_private_file(place))
    except CredentialError:
        if needed:
            raise
        return None


def facts(folder: Place, manifest: Manifest) -> Json:
    """What a command says of a dataset."""
    return {
        "folder": str(folder),
        "name": manifest.name,
        "dataset": manifest.dataset,
        "kind": manifest.kind,
        "snapshot": manifest.snapshot,
        "created": manifest.created,
        "files": len(manifest.files),
        "rows": manifest.rows,
        "bytes": manifest.size,
        "key": f"{manifest.key}@{manifest.version}",
        "signer": manifest.signer.digest,
        "made_by": manifest.owner if manifest.owner is not None else f"run {manifest.run}",
        "manifest": manifest.digest,
    }
