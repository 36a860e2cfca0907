"""What a program with Polars talks to: the agent's real socket, keyring and outputs, without a run around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from support.tables import OwnedTable

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.data.files import open_file, read_table
from confide.data.manifest import Manifest
from confide.data.opened_table import OpenedMemory
from confide.data.places import Place
from confide.data.polars import DataContext
from confide.data.snapshots import load_manifest
from confide.data.sources import Source
from confide.ids import KeyRef, RunId, new_dataset_id
from confide.jobs.input_ranges import input_range
from confide.jobs.inputs import VerifiedInput
from confide.jobs.outputs import Outputs
from confide.jobs.staging import staging_path
from confide.jobs.task_files import TaskFiles
from confide.keys.released_keys import OutputKey
from confide.node.keyring import Keyring, Lease
from confide.node.local_socket import LocalSocketClient, LocalSocketServer

RUN = RunId("polars-1")


class PolarsAgent:
    """An agent with inputs of its caller's making and the outputs ``result`` and ``other``; ``asked`` are the operations asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keyring = Keyring()
        self.counts: Json = {}
        self.asked: list[tuple[str, Json]] = []
        self.keys: dict[str, SecretBytes] = {}
        self._signer = SigningKey.generate()
        self._inputs: dict[str, VerifiedInput] = {}
        self._places = {name: root / name for name in ("result", "other")}
        self.outputs = Outputs(self._places, RUN, self._signer)
        for name in self._places:
            self._add_output(name)
        self._server = LocalSocketServer(root / "agent.sock", {name: self._noting(name, work) for name, work in self._operations().items()})
        self._server.start()
        self._client = LocalSocketClient(root / "agent.sock")

    def add(self, name: str, source: pa.Table | Path | Sequence[Source], place: Place | None = None) -> Place:
        """Encrypt an input under a key of its own, to that place if one is given."""
        folder, dataset, key = place or self.root / f"in-{name}", new_dataset_id(), SecretBytes.random()
        kek = SecretBytes.random()
        wrapped = wrap(kek, key, key=f"owner/{name}", version=1, dataset=dataset)
        given: dict[str, Any] = {"name": name, "owner": "owner", "dataset": dataset, "dataset_key": key, "wrapped": wrapped}
        create_dataset(source, folder, **given, signer=self._signer, now=datetime.now(UTC))
        signed = load_manifest(folder)
        manifest = signed.unverified
        self._inputs[name] = VerifiedInput(name, folder, signed.envelope, manifest, signed.digest, self._signer.public)
        self._hold(name, key)
        return folder

    def add_grouped(self, name: str, table: OwnedTable, *read: str) -> None:
        """An input that is a table with column groups, of which the job reads these."""
        signed, groups = table.signed, tuple(group for group in table.manifest.groups if group.name in read)
        self._inputs[name] = VerifiedInput(
            name, table.place, signed.envelope, table.manifest, signed.digest, table.signer.public, groups
        )
        self._hold(name, table.key, table.keys(*read))

    def _hold(self, name: str, key: SecretBytes, groups: Mapping[str, SecretBytes] | None = None) -> None:
        self.keys[name] = key
        found = self._inputs[name]
        files = frozenset(file.path for file in found.manifest.files)

        def lease() -> Lease:
            own = None if groups is None else {group: SecretBytes(secret.reveal()) for group, secret in groups.items()}
            return Lease(SecretBytes(key.reveal()), 300.0, own)

        self.keyring.open_input(found.root, found.manifest.dataset, lease(), files=files, refresh=lease)

    def context(self, *arguments: str, memory: OpenedMemory | None = None) -> DataContext:
        """The program's end."""
        inputs = {name: found.info(files=False) for name, found in self._inputs.items()}
        outputs: Json = {name: {} for name in self._places}
        return DataContext(self._client, {"run": RUN, "arguments": list(arguments), "inputs": inputs, "outputs": outputs}, memory)

    def written(self, name: str) -> pa.Table:
        """The rows of a committed output, as anybody with its key reads them."""
        return read_table(staging_path(self._places[name], RUN), self._committed(name), self.keys[name])

    def written_file(self, name: str, path: str) -> bytes:
        """A file of a committed output."""
        with open_file(staging_path(self._places[name], RUN), self._committed(name), path, self.keys[name]) as file:
            return file.read()

    def _committed(self, name: str) -> Manifest:
        """The manifest, which the driver keeps to itself until the run is over."""
        return next(output.manifest for output in self.outputs.committed() if output.name == name)

    def close(self) -> None:
        self._client.close()
        self._server.close()
        self.outputs.close()
        self.keyring.wipe()

    def _add_output(self, name: str) -> None:
        dataset, secret = new_dataset_id(), SecretBytes.random()
        wrapped = wrap(SecretBytes.random(), secret, key=f"job/{name}", version=1, dataset=dataset)
        until = datetime.now(UTC) + timedelta(hours=1)
        key = OutputKey(dataset, KeyRef("job", name, 1), secret, until, wrapped, self._signer.public.digest, (), (), {}, ())
        self.outputs.hold(name, key, lambda: key)
        self.keys[name] = SecretBytes(secret.reveal())
        place = str(staging_path(self._places[name], RUN))
        self.keyring.open_output(place, dataset, _lease(secret), run=RUN, refresh=lambda: _lease(secret))

    def _operations(self) -> Mapping[str, Callable[[Json], Json]]:
        keys = self.keyring.operations()
        files = TaskFiles(keys["write-key"], lambda report: self.outputs.written(report["paths"]))
        return {
            "read-key": keys["read-key"],
            "write-key": files.operations()["write-key"],
            "input-range": lambda request: input_range(self._inputs, request),
            "input-files": lambda request: {"files": self._inputs[request["name"]].page(request["start"])},
            "stage": lambda request: self.outputs.stage(request["name"]),
            "data-counts": self._count,
            "commit": lambda request: self.outputs.commit(request["name"], request["kind"], request["schema"]),
        }

    def _count(self, request: Json) -> Json:
        self.counts = request["counts"]
        return {}

    def _noting(self, name: str, work: Callable[[Json], Json]) -> Callable[[Json], Json]:
        def operation(request: Json) -> Json:
            self.asked.append((name, request))
            return work(request)

        return operation


def _lease(key: SecretBytes) -> Lease:
    return Lease(SecretBytes(key.reveal()), 300.0)
