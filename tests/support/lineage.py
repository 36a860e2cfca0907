"""A dataset that runs go on with, in a folder or at a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from support.outputs import hold, output_key, write_part

from confide.crypto.sign import SigningKey
from confide.data import files, folder
from confide.data.manifest import Manifest, verify_manifest
from confide.data.next_snapshot import Mode
from confide.data.places import Place, remote_folder
from confide.data.schema import schema_json
from confide.data.snapshots import load_manifest
from confide.data.staging import attempt_beside
from confide.ids import RunId
from confide.jobs.outputs import Outputs
from confide.jobs.parents import Parent
from confide.jobs.saves import Save
from confide.jobs.sending import Sending
from confide.jobs.staging import staging_path
from confide.keys.released_keys import OutputKey

X = pa.schema([("x", pa.int64())])


class Lineage:
    """A dataset ``a`` that a first run has made, and further runs of it: at ``url``, if one is given."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.place, self.url, self.key = root / "a", url, output_key()
        first = Run(self, "first", None)
        first.save(1, 2)
        first.publish()

    @property
    def folder(self) -> Place:
        """Where it is, with a fresh look; ``place`` is where its runs stage what goes to a URL."""
        return self.place if self.url is None else remote_folder(self.url)

    def run(self, name: str, mode: Mode, *, through: Place | None = None) -> Run:
        """A further run; ``through``: how it comes to the storage."""
        return Run(self, name, Parent(load_manifest(through or self.folder), mode))

    def newest(self) -> tuple[Manifest, list[int]]:
        """Its newest manifest, verified as its files are, and its rows."""
        found = load_manifest(self.folder)
        manifest = verify_manifest(found.envelope, found.signer)
        folder.verify_files(found.folder, manifest)
        return manifest, self.rows(manifest)

    def rows(self, manifest: Manifest) -> list[int]:
        """Those of a snapshot."""
        return sorted(files.read_table(self.folder, manifest, self.key.secret).column("x").to_pylist())

    def listed(self) -> list[str]:
        """All files that are there."""
        there = self.folder
        if not isinstance(there, Path):
            return sorted(there.files())
        return sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())


class Run:
    """A run with one output and a signing key of its own."""

    def __init__(self, lineage: Lineage, name: str, parent: Parent | None, *, others: dict[str, Path] | None = None) -> None:
        self.lineage, self.id, self.signer = lineage, RunId(name), SigningKey.generate()
        places = {"a": lineage.place, **(others or {})}
        there = lineage.folder if parent is None else parent.manifest.folder
        sending = None if isinstance(there, Path) else Sending({"a": there}, () if parent is None else "a")
        self.outputs = Outputs(places, self.id, self.signer, {} if parent is None else {"a": parent}, sending)
        self.hold("a", lineage.key)

    def publish(self) -> None:
        """Its last steps: here nothing is sent, there everything."""
        try:
            self.outputs.send()
            self.outputs.publish()
        finally:
            self.outputs.close()

    def hold(self, name: str, key: OutputKey) -> None:
        """Give it an output's key."""
        hold(self.outputs, name, key)

    def begin(self, name: str = "a", mode: str = "error", **more: Any) -> Path:
        """Begin a save: its folder."""
        return Path(self.outputs.stage(name, Save.from_json({"kind": "parquet", "mode": mode, **more}))["path"])

    def task(self, place: Path, *rows: int, schema: pa.Schema = X, key: OutputKey | None = None, root: Path | None = None) -> None:
        """A task's file."""
        key = key or self.lineage.key
        base = staging_path(root or self.lineage.place, self.id)
        with attempt_beside(place.with_name("task")) as attempt:
            path = (place / f"part-{rows[0]}.parquet").relative_to(base).as_posix()
            (attempt.files / path).parent.mkdir(parents=True, exist_ok=True)
            table = pa.table({name: list(rows) for name in schema.names}, schema)
            write_part(attempt.files / path, table, key, path)
            (attempt.files / path).rename(base / path)
        self.outputs.written([str(base / path)])

    def save(self, *rows: int, mode: str = "error", schema: pa.Schema = X) -> None:
        """A whole save."""
        self.task(self.begin(mode=mode), *rows, schema=schema)
        self.outputs.commit("a", "parquet", schema_json(schema)["spark"])
