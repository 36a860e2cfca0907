"""A stage for whole runs: a real broker, two owners with an encrypted table each, an analyst, and what must be gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from confide.attest.policy import Policy
from confide.config import Settings
from confide.crypto.secret import SecretBytes
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.commit import create_dataset
from confide.ids import JobDigest
from confide.job import Job
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.result import RunEvent, RunResult
from confide.jobs.submit import pin_datasets, submit
from confide.keys.broker import Broker
from confide.keys.client import OwnerClient
from confide.keys.credentials import Credential
from confide.keys.custody.local import Passphrase
from confide.keys.server import BrokerServer
from confide.keys.store import Store

PASSPHRASE = b"correct horse battery staple"
CANARY = "canary-plaintext-1f7d"
PROGRAM = b"""
import confide
from helpers import by_city

ctx = confide.session()
people, cities = ctx.read("people"), ctx.read("cities")
joined = people.join(cities, "city")
ctx.write(by_city(joined), "summary")
ctx.write(joined.select("name", "country"), "names")
ctx.stop()
"""
HELPERS = b"""
def by_city(frame):
    return frame.groupBy("country").count()
"""
PEOPLE = pa.table({"name": [f"{CANARY}-{n}" for n in range(100)], "city": [n % 5 for n in range(100)]})
CITIES = pa.table({"city": [0, 1, 2, 3, 4], "country": ["a", "a", "b", "b", "b"]})


class Stage:
    """A broker, two owners with a dataset each, and an analyst."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings(home=root / "home")
        self.tee = SimulatedTee.at(self.settings.simulation_dir)
        store = Store.create(root / "broker.db", Passphrase(SecretBytes(PASSPHRASE)))
        self.broker = Broker(store, self.tee.verifier())
        self.server = BrokerServer(self.broker)
        self.policy = {"name": "measured", "measurements": self.tee.reference_values(), "allow": ["simulated"]}
        self.clients: dict[str, OwnerClient] = {}
        self.dataset_keys: dict[str, SecretBytes] = {}
        self.owners = {"people": "airline", "cities": "weather"}

    def open(self, *, people: pa.Table = PEOPLE, cities: pa.Table = CITIES) -> None:
        """Start the broker, enrol everybody, and encrypt both tables."""
        self.enrol()
        self.encrypt("airline", "people", people)
        self.encrypt("weather", "cities", cities)

    def enrol(self) -> None:
        """Start the broker, and enrol everybody."""
        self.server.start()
        for name in ("airline", "weather", "analyst"):
            credential = Credential.create(self.settings.credentials_dir, name)
            client = OwnerClient(self.server.url, self.server.spki, credential)
            client.enrol(self.broker.owners.create_enrolment(name))
            self.clients[name] = client

    def encrypt(self, owner: str, name: str, table: pa.Table, *, groups: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> None:
        """``groups``: its column groups, each under a key of its name."""
        client = self.clients[owner]
        for key in (name, *groups):
            client.create_key(key)
        minted = client.mint_dataset(name)
        protected = []
        for group, columns in groups.items():
            made = client.mint_dataset(group)
            protected.append(NewGroup(ColumnGroup(group, columns, made.wrapped), made.secret))
        self.dataset_keys[name] = minted.secret
        create_dataset(
            table,
            self.root / name,
            name=name,
            owner=owner,
            dataset=minted.dataset,
            dataset_key=minted.secret,
            wrapped=minted.wrapped,
            signer=Credential.load(self.settings.credentials_dir, owner).key,
            now=datetime.now(UTC),
            register=client.register_manifest,
            protected=protected,
        )

    def job(self, program: bytes = PROGRAM, *, outputs: tuple[str, ...] = ("summary", "names"), **changes: Any) -> Job:
        place = self.root / f"out-{secrets.token_hex(4)}"
        return pin_datasets(Job.build({
            "name": "main-job",
            "program": "main.py",
            "files": {"main.py": program, "helpers.py": HELPERS},
            "inputs": {name: {"path": str(self.root / name)} for name in self.owners},
            "outputs": {name: {"path": str(place / name), "recipients": ["analyst"]} for name in outputs},
            "policy": self.policy,
            "broker": {"url": self.server.url, "spki": self.server.spki},
            "resources": {"workers": 2, "memory_mb": 700, "driver_memory_mb": 700},
            **changes,
        }))  # fmt: skip

    def grant(self, job: Job, *owners: str) -> None:
        for key, owner in self.owners.items():
            if not owners or owner in owners:
                self.clients[owner].grant(key, job=JobDigest(job.digest), policy=self.parsed, recipients=["analyst"])

    @property
    def parsed(self) -> Policy:
        return Policy.from_json(self.policy)

    def run(self, job: Job, *, listener: Callable[[RunEvent], None] = lambda _: None, **options: Any) -> tuple[RunResult, list[RunEvent]]:
        events: list[RunEvent] = []

        def on_event(event: RunEvent) -> None:
            events.append(event)
            listener(event)

        return submit(job, simulate=True, settings=self.settings, on_event=on_event, **options), events

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.server.stop()
        self.broker.store.close()


def processes_of(stage: Stage) -> list[str]:
    """Processes that have the stage's folder, or a run's private folder, in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (str(stage.root) in line or "/dev/shm/confide-main-job-" in line) and int(path.parent.name) != os.getpid():
                found.append(line)
    return found


def outputs_of(job: Job) -> list[str]:
    return [name for name, spec in job.outputs.items() if Path(spec.path).exists()]
