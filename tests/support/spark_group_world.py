"""A Spark group over encrypted inputs and two outputs: what its owners have, and what its agents answer."""

from __future__ import annotations

import math
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import commit
from confide.data.manifest import Manifest, verify_manifest
from confide.data.snapshots import load_manifest, write_manifest
from confide.errors import UsageError
from confide.ids import DatasetId, RunId, new_dataset_id
from confide.node.keyring import Keyring, Lease

CANARY = "CANARY-51c9e2"
MANY = 40  # files; from 33 on Spark lists them by a job, unless it is told not to
RUN = RunId("delays-1")
SIGNER = SigningKey.generate()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(key: SecretBytes) -> Lease:
    return Lease(SecretBytes(key.reveal()), math.inf)  # the ring wipes what it was given


class Owned:
    """A key and a place; a dataset once something is in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.key = SecretBytes.random()
        self.dataset: DatasetId = new_dataset_id()
        self.wrapped: WrappedKey = wrap(SecretBytes.random(), self.key, key="airline/flights", version=1, dataset=self.dataset)

    def facts(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "dataset_key": self.key, "wrapped": self.wrapped, "signer": SIGNER, "now": NOW}

    def manifest(self) -> Manifest:
        return verify_manifest(load_manifest(self.place).envelope, SIGNER.public)

    def info(self) -> Json:
        m = self.manifest()
        return {"kind": m.kind, "schema": m.schema, "path": str(self.place), "files": [entry.path for entry in m.files]}


class World:
    """A running group over one table, two folders of CSV files and two outputs."""

    def __init__(self, group: Any, root: Path, ring: Keyring) -> None:
        self.group, self.root, self.ring = group, root, ring
        self.table, self.texts, self.many = Owned(root / "flights"), Owned(root / "notes"), Owned(root / "many")
        self.result, self.report = Owned(root / "result"), Owned(root / "report")

    def make(self) -> None:
        when = pa.array([0] * 2000, pa.timestamp("us"))
        rows = pa.table({"x": list(range(2000)), "s": [f"{CANARY}-{i}" for i in range(2000)], "when": when})
        commit.create_dataset(rows, self.table.place, name="flights", owner="airline", **self.table.facts())
        listed = self.table.place / self.table.manifest().files[0].path
        shutil.copy(listed, self.table.place / "stray.parquet")
        source = self.root / "plain"
        source.mkdir()
        lines = "".join(f"{i},{CANARY}-{i}\n" for i in range(20_000))
        (source / "notes.csv").write_text("n,text\n" + lines)
        commit.create_dataset(source, self.texts.place, name="notes", owner="airline", **self.texts.facts())
        numbered = self.root / "numbered"
        numbered.mkdir()
        for number in range(MANY):
            (numbered / f"{number}.csv").write_text(f"{number}\n")
        commit.create_dataset(numbered, self.many.place, name="many", owner="airline", **self.many.facts())
        for owned in (self.table, self.texts, self.many):
            listed = frozenset(entry.path for entry in owned.manifest().files)
            again = partial(lease, owned.key)
            self.ring.open_input(str(owned.place), owned.dataset, again(), files=listed, refresh=again)
        for owned in (self.result, self.report):
            self.ring.open_output(str(owned.place), owned.dataset, lease(owned.key), run=RUN, refresh=lambda owned=owned: lease(owned.key))
        (self.root / "code").mkdir()
        (self.root / "code" / "shouting.py").write_text("def shout(text):\n    return text.upper() + '!'\n")
        self.group.info = {
            "inputs": {"flights": self.table.info(), "notes": self.texts.info(), "many": self.many.info()},
            "outputs": {"result": {}, "report": {}},
            "code": str(self.root / "code"),
            "modules": ["shouting.py"],
        }
        self.group.ops.update({"stage": self._stage, "commit": self._commit})

    def _stage(self, request: Json) -> Json:
        if request["name"] not in {"result", "report"}:
            raise UsageError("the job has no output of that name")
        place = getattr(self, request["name"]).place
        place.mkdir(mode=0o700)
        return {"path": str(place)}

    def _commit(self, request: Json) -> Json:
        owned = getattr(self, request["name"])
        signed = commit.commit_staged(
            owned.place,
            kind=request["kind"],
            spark_schema=request["schema"],
            name=request["name"],
            run=RUN,
            check_paths=list,
            **owned.facts(),
        )
        write_manifest(owned.place, signed.envelope)
        found = signed.unverified
        return {"files": len(found.files), "rows": found.rows, "manifest": signed.digest}
