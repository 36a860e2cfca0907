"""A Spark group with a run's real keyring, ledger and outputs: a driver without keys, as in a run, and workers on hosts of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import commit, folder
from confide.data.manifest import Manifest, verify_manifest
from confide.data.snapshots import load_manifest
from confide.ids import DatasetId, KeyRef, RunId, SpkiDigest, new_dataset_id
from confide.jobs.engines import spark as engine
from confide.jobs.outputs import Outputs
from confide.jobs.reports import FilesDeleted, FilesWritten, read_report
from confide.jobs.saves import Save
from confide.jobs.staging import staging_path
from confide.jobs.task_files import TaskFiles
from confide.keys.released_keys import OutputKey
from confide.node.keyring import Keyring, Lease

RUN = RunId("formats-1")
SIGNER = SigningKey.generate()


class Owned:
    """A dataset of an owner's: its key, its place."""

    def __init__(self, place: Path, owner: str) -> None:
        self.place, self.owner = place, owner
        self.key = SecretBytes.random()
        self.dataset: DatasetId = new_dataset_id()
        self.wrapped: WrappedKey = wrap(SecretBytes.random(), self.key, key=f"{owner}/data", version=1, dataset=self.dataset)

    def create(self, source: Path | pa.Table) -> None:
        facts = {"dataset": self.dataset, "dataset_key": self.key, "wrapped": self.wrapped, "signer": SIGNER, "now": datetime.now(UTC)}
        commit.create_dataset(source, self.place, name=self.place.name, owner=self.owner, **facts)  # type: ignore[arg-type]

    def copy(self) -> SecretBytes:
        """The key, for somebody who wipes it when a lease is over."""
        return SecretBytes(self.key.reveal())

    def manifest(self) -> Manifest:
        return verify_manifest(load_manifest(self.place).envelope, SIGNER.public)

    def output_key(self) -> OutputKey:
        later = datetime.now(UTC) + timedelta(hours=1)
        key = KeyRef(f"{self.owner}/data", 1)
        return OutputKey(self.dataset, key, self.copy(), later, self.wrapped, SpkiDigest("0" * 64), (), (), {}, ())


class SparkWorld:
    """Start it with :meth:`start`, run programs, :meth:`publish` the outputs: from then on they are inputs of the same names."""

    def __init__(self, group: Any, root: Path, outputs: tuple[str, ...]) -> None:
        self.group, self.root = group, root
        self.ring = Keyring()
        self.owned = {name: Owned(root / name, "analyst") for name in outputs}
        self.outputs = Outputs({name: owned.place for name, owned in self.owned.items()}, RUN, SIGNER)
        for name, owned in self.owned.items():
            self.outputs.hold(name, owned.output_key(), owned.output_key)
            place = str(staging_path(owned.place, RUN))
            self.ring.open_output(place, owned.dataset, self._lease(owned), run=RUN, refresh=partial(self._lease, owned))
        group.info = {"inputs": {}, "outputs": {name: {} for name in outputs}, "run": RUN}

    @staticmethod
    def _lease(owned: Owned) -> Lease:
        return Lease(owned.copy(), math.inf)

    def own(self, name: str, owner: str, source: Path | pa.Table) -> Owned:
        """Make an input of an owner's."""
        owned = self.owned[name] = Owned(self.root / name, owner)
        owned.create(source)
        self.open(name)
        return owned

    def open(self, name: str) -> None:
        """Name a dataset to programs that start from now on, and give its key to the workers."""
        owned = self.owned[name]
        m = owned.manifest()
        listed = [entry.path for entry in m.files]
        again = partial(self._lease, owned)
        self.ring.open_input(str(owned.place), owned.dataset, again(), files=frozenset(listed), refresh=again)
        self.group.info["inputs"][name] = {"kind": m.kind, "schema": m.schema, "path": str(owned.place), "files": listed}

    def start(self, *, cores: int = 1, **properties: str) -> None:
        """Start the driver, whose Spark has these properties too (dots as underscores), and two executors."""
        outputs = self.outputs
        lengths = {"input-length": lambda _: {"length": -1}}
        self.group.ops = {
            **lengths,
            "stage": lambda request: outputs.stage(request["name"], Save.from_json(request)),
            "abandon": _quiet(lambda request: outputs.abandon(request["name"])),
            "commit": lambda request: outputs.commit(request["name"], request["kind"], request["schema"]),
            "file-renamed": _quiet(lambda request: outputs.renamed(request["from"], request["to"])),
            "file-deleted": _quiet(lambda request: outputs.deleted(request["path"])),
        }
        group = self.group
        group.driver_node = group.node("driver")
        launch = engine.driver_jvm(group.runtime, group.driver_node, group.run)
        config = json.loads(launch.files["driver.json"])
        config["properties"] |= {name.replace("_", "."): value for name, value in properties.items()}
        group.start("driver", group.driver_node, replace(launch, files={**launch.files, "driver.json": json.dumps(config).encode()}))
        for number in (1, 2):
            self.executor(number)

    def executor(self, number: int) -> None:
        """Start an executor.  Each has a host of its own: Spark starts no second copy of a task on the host of the first."""
        self.group.ops = {
            **self.ring.operations(),
            **TaskFiles(self.ring.operations()["write-key"], self._tell).operations(),
            "input-length": lambda _: {"length": -1},
        }
        name = f"executor-{number}"
        node = replace(self.group.node(name), host=f"127.0.0.{number + 1}")
        self.group.start(name, node, engine.executor_command(self.group.runtime, node, self.group.run, str(number)))

    def _tell(self, report: Json) -> None:
        match read_report("worker", report):  # type: ignore[arg-type]
            case FilesWritten(paths):
                self.outputs.written(paths)
            case FilesDeleted(path):
                self.outputs.deleted(path)

    def program(self, source: str, *, values: Mapping[str, object] | None = None, timeout: float = 600.0) -> Json:
        """Run a program: ``ctx`` is there, and what it puts into ``found`` is answered."""
        given = json.dumps(json.dumps(values or {}))
        head = f"import confide, json\nctx = confide.session()\nspark, found = ctx.spark, {{}}\nvalues = json.loads({given})\n"
        status, output = self.group.run_program(head + source + '\nprint("FOUND", json.dumps(found))\n', timeout=timeout)
        assert status == 0, output[-6000:]
        line = next(line for line in output.splitlines() if line.startswith("FOUND "))
        return {**json.loads(line.removeprefix("FOUND ")), "output": output}

    def publish(self) -> None:
        """End the run as far as outputs go."""
        names = [output.name for output in self.outputs.committed()]
        self.outputs.publish()
        for name in names:
            owned = self.owned[name]
            folder.verify_files(owned.place, owned.manifest())
            folder.refuse_foreign(owned.place, {entry.path for entry in owned.manifest().files})
            self.open(name)

    def close(self) -> None:
        self.group.close()
        self.outputs.close()


def _quiet(note: Any) -> Any:
    def operation(request: Json) -> Json:
        note(request)
        return {}

    return operation
