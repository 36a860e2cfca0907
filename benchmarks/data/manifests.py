"""What manifests of 100,000 files take, beside reading and writing as many bytes."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks.data.owned import KEK, KEY, OWNER, SIGNER
from benchmarks.data.rows import Row, timed
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.data.commit import add_snapshot
from confide.data.manifest import FileEntry, Manifest, now_text, sign_manifest, verify_manifest
from confide.data.schema import schema_json
from confide.data.snapshots import SignedManifest, history, load_manifest, write_manifest
from confide.ids import new_dataset_id

FILES = 100_000
_ROWS = pa.table({"n": pa.array([1, 2, 3])})


def measure(repeat: int, folder: Path, *, files: int = FILES) -> list[Row]:
    """Write, sign, verify, append, log."""
    key, dataset = SecretBytes.random(), new_dataset_id()
    names = sorted(f"part-{number:05d}-{secrets.token_hex(16)}.parquet" for number in range(files))
    manifest = Manifest(
        dataset=dataset,
        name="many",
        snapshot=1,
        parent=None,
        created=now_text(datetime.now(UTC)),
        kind="parquet",
        schema=schema_json(_ROWS.schema),
        files=tuple(FileEntry(name, 1000, secrets.token_hex(32), 3) for name in names),
        wrapped=wrap(KEK, key, key=KEY, version=1, dataset=dataset),
        signer=SIGNER.public,
        owner=OWNER,
    )
    place = folder / "many"
    place.mkdir()
    of = f"manifest of {files:,} files"
    sign, write, load, verify = (Row(f"{of}: {what}") for what in ("sign", "write and sync", "load the newest", "verify"))
    append, log = Row(f"{of}: append one"), Row(f"{of}: log")
    for _ in range(repeat):
        sign.ours.append(timed(lambda: sign_manifest(manifest, SIGNER)))
        envelope = sign.ours[-1].value
        write.ours.append(timed(partial(write_manifest, place, envelope)))
        load.ours.append(timed(lambda: load_manifest(place)))
        found: SignedManifest = load.ours[-1].value
        verify.ours.append(timed(partial(verify_manifest, found.envelope, SIGNER.public)))
        if found.unverified.snapshot != 1 or verify.ours[-1].value != manifest:
            raise AssertionError("the manifest came back as another one")
    size = (place / "_confide.json").stat().st_size
    write.note = load.note = f"{size / 1e6:.1f} MB"
    for _ in range(repeat):
        newest = load_manifest(place)
        add = partial(add_snapshot, _ROWS, newest, "append", dataset_key=key, signer=SIGNER, now=datetime.now(UTC))
        append.ours.append(timed(add))
    newest = load_manifest(place)
    log.ours.append(timed(lambda: list(history(newest))))
    log.note = f"{len(log.ours[-1].value) + 1} snapshots"
    return [sign, write, load, verify, replace(append, note="encrypts a file of 3 rows, signs, commits"), log]
