"""Encrypted datasets with keys of the benchmark's own, and the same files in plaintext.  No broker: what it costs is measured elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.data.files import open_parquet
from confide.data.manifest import verify_manifest
from confide.data.parquet_keys import WRITTEN
from confide.ids import new_dataset_id
from confide.jobs.inputs import VerifiedInput
from confide.node.keyring import Lease

if TYPE_CHECKING:
    from confide.node.keyring import Keyring

SIGNER = SigningKey.generate()
KEK = SecretBytes.random()
OWNER, KEY = "benchmark", "benchmark/data"


def lease(key: SecretBytes) -> Lease:
    """A copy of a key: a node wipes its own when the lease that it allows is over, and asks again."""
    return Lease(SecretBytes(key.reveal()), math.inf)


@dataclass(slots=True)
class Owned:
    """A dataset: its verified manifest and its key, and how often nodes asked for that, as they would ask a broker."""

    input: VerifiedInput
    key: SecretBytes
    asked: int = 0

    def lease(self) -> Lease:
        """The key, for as long as anybody likes."""
        self.asked += 1
        return lease(self.key)

    def open_in(self, ring: Keyring) -> None:
        """Have a node hold the key."""
        found = self.input
        files = frozenset(file.path for file in found.manifest.files)
        ring.open_input(str(found.folder), found.manifest.dataset, self.lease(), files=files, refresh=self.lease)


def encrypted(source: Path, folder: Path) -> Owned:
    """``source`` (a Parquet file, or a folder of other files) as an encrypted dataset in ``folder``."""
    key, dataset = SecretBytes.random(), new_dataset_id()
    wrapped = wrap(KEK, key, key=KEY, version=1, dataset=dataset)
    signed = create_dataset(
        source,
        folder,
        name=folder.name,
        owner=OWNER,
        dataset=dataset,
        dataset_key=key,
        wrapped=wrapped,
        signer=SIGNER,
        now=datetime.now(UTC),
    )
    manifest = verify_manifest(signed.envelope, SIGNER.public)
    return Owned(VerifiedInput(folder.name, folder, signed.envelope, manifest, signed.digest, SIGNER.public), key)


def plain_twin(owned: Owned, folder: Path) -> Path:
    """The files of an encrypted table in plaintext: the same names, rows, row groups, encodings and compression, from the same writer."""
    folder.mkdir(parents=True)
    manifest = owned.input.manifest
    for entry in manifest.files:
        source = open_parquet(owned.input.folder, entry.path, owned.key, manifest.dataset)
        with pq.ParquetWriter(folder / entry.path, source.schema_arrow, **WRITTEN) as writer:
            for index in range(source.num_row_groups):
                group = source.read_row_group(index)
                writer.write_table(group, row_group_size=max(1, group.num_rows))
    return folder
