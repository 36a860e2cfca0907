"""A Spark group over encrypted inputs and real outputs: the driver's and the workers' bookkeeping, without broker and attestation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from support.container_decoder import decode

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.data.manifest import Manifest, verify_manifest
from confide.data.places import Place
from confide.data.snapshots import load_manifest, write_manifest
from confide.ids import DatasetId, KeyRef, NodeId, RunId, SpkiDigest, new_dataset_id
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.driver_files import DriverFiles
from confide.jobs.input_ranges import input_range
from confide.jobs.inputs import InputLengths, VerifiedInput
from confide.jobs.outputs import CommittedOutput, Outputs
from confide.jobs.reports import FilesDeleted, FilesWritten, read_report
from confide.jobs.saves import Save
from confide.jobs.staging import staging_path
from confide.jobs.task_files import TaskFiles
from confide.keys.released_keys import OutputKey
from confide.node.control import field
from confide.node.keyring import Keyring, Lease

RUN = RunId("streams-1")
SIGNER = SigningKey.generate()


class SparkWorld:
    """``group`` is a ``SparkGroup``.  Add inputs and outputs, then :meth:`start`."""

    def __init__(self, group: Any, root: Path) -> None:
        self.group, self.root = group, root
        self.inputs: dict[str, VerifiedInput] = {}
        self.lengths = InputLengths()
        self.keys: dict[str, tuple[DatasetId, SecretBytes]] = {}
        self.workers_ring, self.drivers_ring = Keyring(lease_s=math.inf), Keyring(lease_s=math.inf)
        self.ranges: list[Json] = []  # that executors asked for
        self.counts: Json = {}  # of the executor that reported last
        self._new_run([])

    def add_input(self, name: str, source: Path | pa.Table, key: SecretBytes | None = None, place: Place | None = None) -> None:
        """Encrypt ``source`` as an input, to that place if one is given."""
        place, dataset, secret = place or self.root / name, new_dataset_id(), key or SecretBytes.random()
        wrapped = wrap(SecretBytes.random(), secret, key="airline/flights", version=1, dataset=dataset)
        create_dataset(
            source,
            place,
            name=name,
            owner="airline",
            dataset=dataset,
            dataset_key=secret,
            wrapped=wrapped,
            signer=SIGNER,
            now=datetime.now(UTC),
        )
        self.hold_input(name, place, dataset, secret)

    def hold_input(self, name: str, place: Place, dataset: DatasetId, secret: SecretBytes) -> None:
        """Take a dataset that is there already as an input of what is run from now on."""
        signed = load_manifest(place)
        manifest = verify_manifest(signed.envelope, SIGNER.public)
        found = VerifiedInput(name, place, signed.envelope, manifest, signed.digest, SIGNER.public)
        self.inputs[name] = found
        self.keys[name] = (dataset, secret)
        self.lengths.know([found])
        files = frozenset(file.path for file in manifest.files)
        self.workers_ring.open_input(found.root, dataset, _lease(secret), files=files, refresh=lambda: _lease(secret))

    def start(self, *outputs: str, executors: int = 2) -> None:
        """Start the JVMs for a run with these outputs."""
        self._new_run(list(outputs))
        self.group.ops.update(self._driver_operations())
        self.group.start_driver()
        for name in tuple(self.group.ops):
            del self.group.ops[name]
        self.group.ops.update(self._worker_operations())
        for number in range(1, executors + 1):
            self.group.start_executor(f"executor-{number}")

    def run(self, source: str, timeout: float = 600.0) -> tuple[int, str]:
        """Run a program; ``ctx`` is its data context."""
        status, output = self.group.run_program(f"import confide, json\nctx = confide.session()\n{source}", timeout=timeout)
        return int(status), str(output)

    def result(self, source: str) -> Any:
        """Run a program that must succeed; answers what it passed to ``result``."""
        status, output = self.run(f"result = lambda value: print('RESULT', json.dumps(value))\n{source}")
        logs = "".join(self.group.log(name)[-6000:] for name in self.group.processes)
        assert status == 0, output[-6000:] + logs
        lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
        return json.loads(lines[-1].removeprefix("RESULT ")) if lines else None

    def manifest(self, name: str) -> Manifest:
        return verify_manifest(self._committed(name).envelope, SIGNER.public)

    def move(self, name: str, place: Path) -> None:
        """Put a committed output, with the manifest that the driver kept to itself, into another place."""
        write_manifest(self.staged(name), self._committed(name).envelope)
        self.staged(name).rename(place)

    def staged(self, name: str) -> Path:
        """Where an output lies until it is published."""
        return staging_path(self.root / name, RUN)

    def opened(self, name: str) -> dict[str, bytes]:
        """The plaintext of every file of a committed output, by path; opened by the independent decoder."""
        dataset, secret = self.keys[name]
        place = self.staged(name)
        return {
            file.path: decode((place / file.path).read_bytes(), secret.reveal(), dataset, file.path) for file in self.manifest(name).files
        }

    def holding(self, canary: bytes) -> list[Path]:
        """Files of the run, the nodes' memory included, that hold ``canary`` in plaintext."""
        places = [self.root, *self.group.private.values()]
        return [path for place in places for path in place.rglob("*") if path.is_file() and canary in path.read_bytes()]

    # --- inside ----------------------------------------------------------------------------------------------------------

    def _committed(self, name: str) -> CommittedOutput:
        return next(output for output in self.outputs.committed() if output.name == name)

    def _new_run(self, names: list[str]) -> None:
        self.outputs = Outputs({name: self.root / name for name in names}, RUN, SIGNER)
        for name in names:
            dataset, secret = new_dataset_id(), SecretBytes.random()
            self.keys[name] = (dataset, secret)
            self.outputs.hold(name, self._output_key(name), lambda name=name: self._output_key(name))
            again = lambda secret=secret: _lease(secret)  # noqa: E731
            self.workers_ring.open_output(str(self.staged(name)), dataset, again(), run=RUN, refresh=again)
        self.group.info = {
            "inputs": {name: found.info() for name, found in self.inputs.items()},
            "outputs": {name: {} for name in names},
        }

    def _output_key(self, name: str) -> OutputKey:
        dataset, secret = self.keys[name]
        wrapped = wrap(SecretBytes.random(), secret, key="airline/flights", version=1, dataset=dataset)
        until = datetime.now(UTC) + timedelta(hours=1)
        key, signer = KeyRef("airline/flights", 1), SpkiDigest(SIGNER.public.digest)
        return OutputKey(dataset, key, secret, until, wrapped, signer, (), (), {}, ())

    def open_output(self, name: str) -> None:
        """What ``BrokerKeys.open_output`` does on the driver, for the driver's files."""
        dataset, secret = self.keys[name]
        self.drivers_ring.open_output(str(self.staged(name)), dataset, _lease(secret), run=RUN, refresh=lambda: _lease(secret))

    def operations(self) -> Mapping[str, Any]:
        """What ``BrokerKeys.operations`` answers on the driver."""
        return self.drivers_ring.operations()

    def _driver_operations(self) -> Mapping[str, Any]:
        return {
            "stage": lambda request: self.outputs.stage(field(request, "name", str), Save.from_json(request)),
            "commit": lambda request: self.outputs.commit(field(request, "name", str), field(request, "kind", str), request.get("schema")),
            "input-length": self.lengths.operation,
            "input-listing": self.lengths.listing,
            **DriverFiles(cast("BrokerKeys", self), self.outputs, sorted(self.group.info["outputs"])).operations(),
        }

    def _worker_operations(self) -> Mapping[str, Any]:
        ring = self.workers_ring.operations()
        files = TaskFiles(ring["write-key"], self._heard)
        return {
            **ring,
            **files.operations(),
            "input-length": self.lengths.operation,
            "input-listing": self.lengths.listing,
            "input-range": self._range,
            "data-counts": self._count,
        }

    def _range(self, request: Json) -> Json:
        self.ranges.append(request)
        return input_range(self.inputs, request)

    def _count(self, request: Json) -> Json:
        self.counts = field(request, "counts", dict)
        return {}

    def _heard(self, report: Json) -> None:
        match read_report(NodeId("worker-1"), report):
            case FilesWritten(paths):
                self.outputs.written(paths)
            case FilesDeleted(path):
                self.outputs.deleted(path)


def _lease(key: SecretBytes) -> Lease:
    return Lease(SecretBytes(key.reveal()), math.inf)  # a keyring wipes what it was given when the lease is over
