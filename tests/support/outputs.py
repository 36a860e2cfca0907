"""The key of an output as the broker would give it to a run's driver, and what a task writes under it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from support.arrow_writer import write_by_arrow

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.ids import KeyRef, SpkiDigest, new_dataset_id
from confide.jobs.outputs import Outputs
from confide.keys.released_keys import OutputKey


def output_key() -> OutputKey:
    secret, dataset = SecretBytes.random(), new_dataset_id()
    wrapped = wrap(SecretBytes.random(), secret, key="lab/results", version=1, dataset=dataset)
    later = datetime.now(UTC) + timedelta(hours=1)
    return OutputKey(dataset, KeyRef("lab/results", 1), secret, later, wrapped, SpkiDigest("0" * 64), (), (), {}, ())


def hold(outputs: Outputs, name: str, key: OutputKey) -> None:
    """Give a run an output's key: a copy, as it wipes what it holds."""
    own = replace(key, secret=SecretBytes(key.secret.reveal()))
    outputs.hold(name, own, lambda: own)


def write_part(place: Path, table: pa.Table, key: OutputKey, path: str) -> None:
    """Write a task's file to ``place``; ``path`` is what it is called in the dataset."""
    write_by_arrow(place, table, key.secret, key.dataset, path)
