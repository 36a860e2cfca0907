"""Writes the manifest vectors.  Independent of ``src``: only ``docs/formats/dataset.md`` and ``cryptography``.

Run it from anywhere: ``python tests/vectors/manifest/generate.py``.  Signatures are random; everything else is deterministic.
All texts are ASCII and all numbers are integers, so sorted keys without spaces are the RFC 8785 form.
"""

from __future__ import annotations

import base64
import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).parent
TYPE = "application/vnd.confide.manifest+json"
KEK, DATASET_KEY = (hashlib.sha256(f"confide test vector: {name}".encode()).digest() for name in ("key-encryption key", "dataset key"))
SIGNER, OTHER = (ec.derive_private_key(number, ec.SECP256R1()) for number in (0xC0FFEE, 0xBADC0DE))
DATASET = "00112233445566778899aabbccddeeff"


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def form(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def wrapped(dataset: str = DATASET, key: str = "airline/flights", version: int = 3) -> dict[str, Any]:
    bound = {"format": "confide-wrapped-key-v1", "key": key, "version": version, "dataset": dataset}
    nonce = bytes(range(12))
    return {**bound, "nonce": url(nonce), "ciphertext": url(AESGCM(KEK).encrypt(nonce, DATASET_KEY, form(bound)))}


def table() -> dict[str, Any]:
    return {
        "format": "confide-manifest-v1",
        "dataset": DATASET,
        "name": "flights",
        "snapshot": 1,
        "parent": None,
        "created": "2026-01-02T03:04:05Z",
        "kind": "parquet",
        "schema": {
            "columns": [{"name": "delay", "type": "int64", "nullable": True}],
            "spark": {"type": "struct", "fields": [{"name": "delay", "type": "long", "nullable": True, "metadata": {}}]},
        },
        "files": [
            {"path": "part-00000.parquet", "size": 1000, "sha256": "00" * 32, "rows": 10},
            {"path": "part-00001.parquet", "size": 900, "sha256": "11" * 32, "rows": 0},
        ],
        "key": "airline/flights",
        "version": 3,
        "wrapped": wrapped(),
        "signer": url(spki(SIGNER)),
        "owner": "airline",
        "run": None,
    }


def files(**changes: Any) -> dict[str, Any]:
    listed = [{"path": "v-1/model/data.csv", "size": 64, "sha256": "22" * 32, "rows": None}]
    return {**table(), "kind": "files", "schema": None, "files": listed, "owner": None, "run": "delays-0123456789ab", **changes}


def envelope(payload: bytes, *, key: ec.EllipticCurvePrivateKey = SIGNER, kind: str = TYPE, keyid: bytes | None = None) -> dict[str, Any]:
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    sig = base64.b64encode(key.sign(signed, ec.ECDSA(SHA256()))).decode()
    named = hashlib.sha256(keyid or spki(key)).hexdigest()
    return {"payloadType": kind, "payload": base64.b64encode(payload).decode(), "signatures": [{"keyid": named, "sig": sig}]}


def write(name: str, scenario: str, made: dict[str, Any], **more: Any) -> None:
    vector = {"scenario": scenario, "signer": url(spki(SIGNER)), "envelope": made, **more}
    (HERE / f"{name}.json").write_text(json.dumps(vector, indent=1, sort_keys=True) + "\n")


def accepted(name: str, scenario: str, manifest: dict[str, Any]) -> None:
    payload = form(manifest)
    keys = {"kek": KEK.hex(), "dataset_key": DATASET_KEY.hex()}
    write(name, scenario, envelope(payload), expect="accepted", digest=hashlib.sha384(payload).hexdigest(), **keys)


def refused(name: str, scenario: str, made: dict[str, Any]) -> None:
    write(name, scenario, made, expect="refused")


def changed(name: str, scenario: str, **changes: Any) -> None:
    refused(name, scenario, envelope(form({**table(), **changes})))


def main() -> None:
    accepted("accepted-table", "A table of two files, the first snapshot, by an owner.", table())
    accepted("accepted-files", "A file in a container, a run's output.", files())
    accepted("accepted-second-snapshot", "The second snapshot names its parent.", {**table(), "snapshot": 2, "parent": "ab" * 48})
    accepted("accepted-work", "An owner's manifest says which work made it.", {**table(), "work": "33" * 32})
    accepted("accepted-no-files", "A table without files.", {**table(), "files": []})

    good, first = envelope(form(table())), table()["files"][0]
    payload = base64.b64decode(good["payload"])
    other = base64.b64encode(payload.replace(b'"size":900', b'"size":901')).decode()
    refused("refused-changed-byte", "One byte of the payload was changed.", {**good, "payload": other})
    theirs = form({**table(), "signer": url(spki(OTHER))})
    refused("refused-other-signer", "Signed by another key, which the manifest names.", envelope(theirs, key=OTHER))
    refused("refused-not-the-named-signer", "Signed by another key than the manifest names.", envelope(form(table()), key=OTHER))
    lie = envelope(form(table()), key=OTHER, keyid=spki(SIGNER))
    refused("refused-false-keyid", "Signed by another key under the signer's key id.", lie)
    refused("refused-payload-type", "Signed as another type of payload.", envelope(form(table()), kind="application/vnd.in-toto+json"))
    refused("refused-two-signatures", "Two signatures.", {**good, "signatures": good["signatures"] * 2})
    refused("refused-extra-member", "The envelope has one member more.", {**good, "note": ""})
    refused("refused-base64url", "The payload is base64url without padding.", {**good, "payload": url(payload) + "_"})
    refused("refused-spaces", "The payload is not in its RFC 8785 form.", envelope(json.dumps(table(), sort_keys=True).encode()))
    refused("refused-order", "The payload's members are in another order.", envelope(json.dumps(table(), separators=(",", ":")).encode()))
    refused("refused-twice", "A member is there twice.", envelope(payload.replace(b'"snapshot":1', b'"snapshot":1,"snapshot":1')))
    changed("refused-format", "Another format.", format="confide-manifest-v2")
    changed("refused-unknown-member", "A member that there is not.", note="x")
    changed("refused-work-null", "No work is said by no member, not by null.", work=None)
    changed("refused-work-capitals", "A digest of the work in capitals.", work="AB" * 32)
    refused("refused-work-of-run", "A run's output says which work made it.", envelope(form(files(work="33" * 32))))
    changed("refused-dataset-id", "A dataset id in capitals.", dataset=DATASET.upper(), wrapped=wrapped(DATASET.upper()))
    changed("refused-wrapped-dataset", "The wrapped key is of another dataset.", wrapped=wrapped("ff" * 16))
    changed("refused-wrapped-key", "The wrapped key is under another key.", wrapped=wrapped(key="weather/weather"))
    changed("refused-wrapped-version", "The wrapped key is under another version.", wrapped=wrapped(version=2))
    changed("refused-snapshot-zero", "Snapshots begin with 1.", snapshot=0)
    changed("refused-no-parent", "A second snapshot without parent.", snapshot=2)
    changed("refused-parent-of-first", "A first snapshot with a parent.", parent="ab" * 48)
    changed("refused-both-makers", "An owner and a run.", run="delays-0123456789ab")
    changed("refused-no-maker", "Neither an owner nor a run.", owner=None)
    changed("refused-table-without-schema", "A table without schema.", schema=None)
    changed("refused-kind", "A kind that there is not.", kind="orc")
    changed("refused-unsorted", "Files are not sorted.", files=table()["files"][::-1])
    changed("refused-path-twice", "A path is there twice.", files=[first, first])
    changed("refused-path-up", "A path leads out of the folder.", files=[{**first, "path": "../part-00000.parquet"}])
    changed("refused-path-absolute", "A path is absolute.", files=[{**first, "path": "/etc/passwd"}])
    changed("refused-lists-itself", "The manifest lists itself.", files=[{**first, "path": "_confide.json"}])
    changed("refused-no-rows", "A table's file without rows.", files=[{**first, "rows": None}])
    changed("refused-digest-capitals", "A file's digest in capitals.", files=[{**first, "sha256": "AB" * 32}])
    changed("refused-true-size", "A size that is a truth value.", files=[{**first, "size": True}])
    no_signer = deepcopy(table())
    del no_signer["signer"]
    refused("refused-missing-member", "A member is missing.", envelope(form(no_signer)))


if __name__ == "__main__":
    main()
