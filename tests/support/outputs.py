"""The key of an output as the broker would give it to a run's driver."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.ids import KeyRef, SpkiDigest, new_dataset_id
from confide.keys.released_keys import OutputKey


def output_key() -> OutputKey:
    secret, dataset = SecretBytes.random(), new_dataset_id()
    wrapped = wrap(SecretBytes.random(), secret, key="lab/results", version=1, dataset=dataset)
    later = datetime.now(UTC) + timedelta(hours=1)
    return OutputKey(dataset, KeyRef("lab/results", 1), secret, later, wrapped, SpkiDigest("0" * 64), (), (), {}, ())
