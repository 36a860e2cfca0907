"""A dataset's signed manifest: which files belong to it, with which digests, under which key, in which snapshot.

Readers accept a file only through the manifest, so swapped, missing or foreign files are noticed.  It is a DSSE envelope (payload type
``application/vnd.confide.manifest+json``) over the RFC 8785 form of :class:`Manifest`; where it lies, ``confide.data.snapshots`` knows.
Whether the signer may sign for the dataset, and whether the snapshot is current, is decided by whoever pins the signer (the job) and by
the broker, which knows each dataset's signer and newest snapshot.  The format is ``docs/formats/dataset.md``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object, sha384_hex
from confide.crypto.derive import check_data_path, check_dataset_id
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.data.column_groups import ColumnGroup, check_groups
from confide.errors import ConfideError, ManifestError
from confide.ids import DatasetId, RunId, check_name

MANIFEST_NAME: Final = "_confide.json"
"""Begins with an underscore, so that Spark and Arrow do not take it for data when they list a folder."""
SNAPSHOTS: Final = "_snapshots"
"""Folder of the manifests of all snapshots, ``<number>.json``."""
PAYLOAD_TYPE: Final = "application/vnd.confide.manifest+json"
FORMAT: Final = "confide-manifest-v1"
MAX_BYTES: Final = 64 * 1024 * 1024
"""Cap on a manifest file: some 300,000 files.  More files than that want larger files."""

Kind = Literal["parquet", "files"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA384 = re.compile(r"[0-9a-f]{96}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MAX_INT: Final = 2**53 - 1  # RFC 8785 numbers


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One data file: its path in the folder, encrypted size in bytes, SHA-256 of the encrypted bytes; ``rows`` for tables."""

    path: str
    size: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written into a folder: entries for the manifest, sorted by path, and for tables the schema."""

    kind: Kind
    files: tuple[FileEntry, ...]
    schema: Json | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says.  Frozen; an instance was checked for form, not for who signed it.

    ``schema`` (tables only) holds ``columns`` (name, Arrow type, nullable) and ``spark`` (Spark's schema JSON).  ``parent`` is the
    digest of the manifest of the snapshot before.  ``owner`` or ``run`` says who made it: a data owner, or a run as its output.
    ``groups`` are columns of an owner's table with keys of their own.  ``work`` says what an owner's command did, to whoever has the
    dataset's key (:mod:`confide.data.work`).
    """

    dataset: DatasetId
    name: str
    snapshot: int
    parent: str | None
    created: str
    kind: Kind
    schema: Json | None
    files: tuple[FileEntry, ...]
    wrapped: WrappedKey
    signer: PublicKey
    owner: str | None = None
    run: RunId | None = None
    groups: tuple[ColumnGroup, ...] = ()
    work: str | None = None

    @property
    def key(self) -> str:
        """The key-encryption key that the dataset's key is wrapped under, ``owner/name``."""
        return self.wrapped.key

    @property
    def version(self) -> int:
        """Version of :attr:`key`."""
        return self.wrapped.version

    @property
    def rows(self) -> int | None:
        """Rows of all files together, for tables."""
        return sum(file.rows or 0 for file in self.files) if self.kind == "parquet" else None

    @property
    def size(self) -> int:
        """Size of all data files together, encrypted."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-384 of the signed payload, hex: how receipts and the broker name this manifest."""
        return sha384_hex(self.payload())

    def payload(self) -> bytes:
        """The RFC 8785 form that is signed."""
        return canonical(self.to_json())

    def to_json(self) -> Json:
        """All fields as JSON."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "name": self.name,
            "snapshot": self.snapshot,
            "parent": self.parent,
            "created": self.created,
            "kind": self.kind,
            "schema": self.schema,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256, "rows": f.rows} for f in self.files],
            "key": self.key,
            "version": self.version,
            "wrapped": self.wrapped.to_json(),
            "signer": b64url(self.signer.spki_der),
            "owner": self.owner,
            "run": self.run,
            **({"groups": [group.to_json() for group in self.groups]} if self.groups else {}),
            **({"work": self.work} if self.work is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Json) -> Manifest:
        """The inverse of :meth:`to_json`, strict: no unknown, missing or contradicting field.

        Raises:
            ManifestError: not a manifest of this format.
        """
        try:
            return _parse(data)
        except ManifestError:
            raise
        except (ConfideError, KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ManifestError("a manifest does not have the documented form", field=str(cause)[:200]) from cause


def now_text(now: datetime) -> str:
    """``now`` in the manifest's time format (UTC, whole seconds)."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign_manifest(manifest: Manifest, key: SigningKey) -> Json:
    """The DSSE envelope over ``manifest``.

    Raises:
        ManifestError: the manifest names another signer than ``key``.
    """
    if manifest.signer != key.public:
        raise ManifestError("the manifest names another signer", expected=key.spki_digest, got=manifest.signer.digest)
    # What cannot be read back is not signed.
    Manifest.from_json(manifest.to_json())
    return dsse_sign(key, PAYLOAD_TYPE, manifest.payload())


def verify_manifest(envelope: Json, signer: PublicKey) -> Manifest:
    """The manifest, if ``signer`` signed it.  That the snapshot is the newest is checked by the broker when it releases the key.

    Raises:
        ManifestError: another signer, changed bytes, or not a manifest.
    """
    try:
        payload = dsse_verify(envelope, signer, PAYLOAD_TYPE)
    except ConfideError as cause:
        raise ManifestError(f"a manifest's signature was refused: {cause.message}", hint=cause.hint, **cause.facts) from cause
    manifest = read_payload(payload)
    if manifest.signer != signer:
        raise ManifestError("a manifest is signed by another key than it names", expected=manifest.signer.digest, got=signer.digest)
    return manifest


def read_payload(payload: bytes) -> Manifest:
    """What signed bytes say, strict; who signed them is not checked.

    Raises:
        ManifestError: not a manifest in its canonical form.
    """
    try:
        data = parse_object(payload)
    except ConfideError as cause:
        raise ManifestError("a manifest is not JSON") from cause
    manifest = Manifest.from_json(data)
    if manifest.payload() != payload:
        raise ManifestError("a manifest is not in its canonical form")
    return manifest


_FIELDS: Final = frozenset({
    *("format", "dataset", "name", "snapshot", "parent", "created", "kind", "schema", "files"),
    *("key", "version", "wrapped", "signer", "owner", "run"),
})  # fmt: skip


def _parse(data: Json) -> Manifest:
    if data.get("format") != FORMAT or set(data) - {"groups", "work"} != _FIELDS:
        raise ManifestError("not a manifest of this version", expected=FORMAT, got=str(data.get("format"))[:80])
    wrapped = WrappedKey.from_json(data["wrapped"])
    dataset = check_dataset_id(data["dataset"])
    if (wrapped.key, wrapped.version, wrapped.dataset) != (data["key"], data["version"], dataset):
        raise ManifestError("a manifest's wrapped key is of another key or dataset", dataset=dataset)
    if data["kind"] not in get_args(Kind):
        raise ManifestError("unknown kind of dataset", kind=str(data["kind"])[:40])
    manifest = Manifest(
        dataset=dataset,
        name=check_name(data["name"], "dataset name"),
        snapshot=_number(data["snapshot"], least=1),
        parent=None if data["parent"] is None else _matching(data["parent"], _SHA384),
        created=_matching(data["created"], _TIME),
        kind=data["kind"],
        schema=_schema(data["schema"], data["kind"]),
        files=_files(data["files"], data["kind"]),
        wrapped=wrapped,
        signer=PublicKey.from_spki(from_b64url(data["signer"])),
        owner=None if data["owner"] is None else check_name(data["owner"], "owner"),
        run=None if data["run"] is None else RunId(check_name(data["run"], "run id")),
        groups=_groups(data),
        work=_matching(data["work"], _SHA256) if "work" in data else None,
    )
    if (manifest.owner is None) == (manifest.run is None):
        raise ManifestError("a manifest names an owner or a run as its maker, and not both")
    if (manifest.parent is None) != (manifest.snapshot == 1):
        raise ManifestError("the first snapshot has no parent and every other has one", snapshot=manifest.snapshot)
    if manifest.work is not None and manifest.owner is None:
        raise ManifestError("only an owner's manifest says which work made it")
    if manifest.groups:
        if manifest.owner is None or manifest.schema is None:
            raise ManifestError("only an owner's table has column groups")
        columns = [column["name"] for column in manifest.schema["columns"]]
        check_groups(manifest.groups, dataset=dataset, key=manifest.key, columns=columns)
    return manifest


def _groups(data: Json) -> tuple[ColumnGroup, ...]:
    """None is not written as an empty list: one manifest has one form."""
    if "groups" not in data:
        return ()
    if not isinstance(data["groups"], list) or not data["groups"]:
        raise ManifestError("a manifest's column groups are none")
    return tuple(ColumnGroup.from_json(group) for group in data["groups"])


def _files(entries: list[Json], kind: Kind) -> tuple[FileEntry, ...]:
    files = tuple(_file(entry, kind) for entry in entries)
    paths = [file.path for file in files]
    if paths != sorted(set(paths)):
        raise ManifestError("a manifest's files are not sorted by path, each once")
    if MANIFEST_NAME in paths or any(path.split("/", 1)[0] == SNAPSHOTS for path in paths):
        raise ManifestError("a manifest lists itself")
    return files


def _file(entry: Json, kind: Kind) -> FileEntry:
    if set(entry) != {"path", "size", "sha256", "rows"} or (entry["rows"] is None) != (kind != "parquet"):
        raise ManifestError("a manifest's file entry does not have the documented form")
    rows = None if entry["rows"] is None else _number(entry["rows"], least=0)
    return FileEntry(check_data_path(entry["path"]), _number(entry["size"], least=1), _matching(entry["sha256"], _SHA256), rows)


def _schema(schema: Any, kind: Kind) -> Json | None:
    if kind != "parquet":
        if schema is not None:
            raise ManifestError("only tables have a schema")
        return None
    match schema:
        case {"columns": list(columns), "spark": {"type": "struct", "fields": list(fields)}}:
            if len(schema) == 2 and len(columns) == len(fields):
                return cast("Json", schema)
    raise ManifestError("a table's manifest needs a schema")


def _number(value: object, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_INT:
        raise ManifestError("a number in a manifest is out of range", got=str(value)[:40])
    return value


def _matching(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ManifestError("a text in a manifest does not have the documented form", got=str(value)[:80])
    return value
