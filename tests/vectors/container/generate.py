"""Writes the container and derivation vectors.  Independent of ``src``: only ``docs/formats/container.md``, hashlib and AES-GCM.

Run it from anywhere: ``python tests/vectors/container/generate.py``.  It is deterministic; a diff after a run is a format change.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent
CHUNK, TAG, HEADER = 65536, 16, 48
SEALED = CHUNK + TAG
KEY = hashlib.sha256(b"confide test vector: dataset key").digest()
SALT = hashlib.sha256(b"confide test vector: salt").digest()
DATASET = "00112233445566778899aabbccddeeff"
PATH = "part-00000-6f1c2d3e.csv"
REPEAT = b"origin,dest,delay\nEWR,IAH,11\n".hex()


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")


def file_key(key: bytes, kind: str, dataset: str, path: str, salt: bytes) -> bytes:
    """Section 2.2."""
    return hkdf(key, salt, b"\0".join([b"confide-file-v1", kind.encode(), dataset.encode(), path.encode()]))


def header(salt: bytes) -> bytes:
    """Section 3.1."""
    return b"CONFIDE1" + bytes([0, 1, 16, 0, 0, 0, 0, 0]) + salt


def seal_chunk(key: bytes, head: bytes, index: int, plaintext: bytes, *, last: bool) -> bytes:
    """Section 3.2."""
    return AESGCM(key).encrypt(bytes(7) + index.to_bytes(4, "big") + bytes([last]), plaintext, head)


def seal(plaintext: bytes, path: str) -> bytes:
    """The whole container."""
    head = header(SALT)
    key = file_key(KEY, "container", DATASET, path, SALT)
    pieces = [plaintext[i : i + CHUNK] for i in range(0, len(plaintext), CHUNK)] or [b""]
    return head + b"".join(seal_chunk(key, head, i, piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces))


def vector(
    name: str,
    scenario: str,
    length: int,
    assemble: list[dict] | None = None,
    *,
    path: str = PATH,
    at: str = "",
    open_with: dict[str, str] | None = None,
) -> None:
    """Write one vector; refused if ``at`` says where."""
    repeat = bytes.fromhex(REPEAT)
    plaintext = (repeat * (length // len(repeat) + 1))[:length]
    sealed = seal(plaintext, path)
    assemble = assemble or [{"slice": [0, len(sealed)]}]
    file = b"".join(bytes.fromhex(p["hex"]) if "hex" in p else sealed[p["slice"][0] : p["slice"][1]] for p in assemble)
    data = {
        "scenario": scenario,
        "dataset_key": KEY.hex(),
        "dataset": DATASET,
        "path": path,
        "salt": SALT.hex(),
        "file_key": file_key(KEY, "container", DATASET, path, SALT).hex(),
        "plaintext": {"repeat": REPEAT, "length": length},
        "sealed_size": len(sealed),
        "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
        **({"sealed": sealed.hex()} if len(sealed) <= 1024 else {}),
        "assemble": assemble,
        "file_sha256": hashlib.sha256(file).hexdigest(),
        "open_with": open_with or {},
        "expect": "refused" if at else "opened",
        **({"refused_at": at} if at else {}),
    }
    (HERE / f"{name}.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def cut(*slices: tuple[int, int]) -> list[dict]:
    """Slices of the sealed container, joined."""
    return [{"slice": list(part)} for part in slices]


def flip(length: int, offset: int, value: int) -> list[dict]:
    """The container of ``length`` bytes with one byte set to ``value``."""
    return [{"slice": [0, offset]}, {"hex": f"{value:02x}"}, {"slice": [offset + 1, length]}]


def opened() -> None:
    """Every boundary of the chunking."""
    lengths = {"empty": 0, "one-byte": 1, "short": 300, "chunk-less-one": CHUNK - 1, "one-chunk": CHUNK, "chunk-and-one": CHUNK + 1}
    lengths |= {"two-chunks": 2 * CHUNK, "two-chunks-and-half": 2 * CHUNK + CHUNK // 2}
    for name, length in lengths.items():
        vector(f"opened-{name}", f"a plaintext of {length} bytes", length)
    vector("opened-nested-path", "a path with folders, spaces and non-ASCII letters", 40, path="año=2013/mes 1/données-π.json")


def refused_by_size() -> None:
    """Section 4."""
    key, head = file_key(KEY, "container", DATASET, PATH, SALT), header(SALT)
    vector("refused-empty-file", "a file of no bytes", 10, cut((0, 0)), at="size")
    vector("refused-header-cut", "the file ends inside the header", 10, cut((0, 47)), at="size")
    vector("refused-header-only", "a header without a chunk", 10, cut((0, HEADER)), at="size")
    vector("refused-tag-cut", "the file ends inside the first tag", 10, cut((0, HEADER + 15)), at="size")
    full, tail = bytes.fromhex(REPEAT) * 3000, seal_chunk(key, head, 1, b"", last=True)
    forged = seal_chunk(key, head, 0, full[:CHUNK], last=False)
    assert len(forged) == SEALED
    pieces = [*cut((0, HEADER + SEALED)), {"hex": tail.hex()}]
    vector("refused-empty-final-chunk", "a full chunk, then an empty final one", CHUNK + 1, pieces, at="size")


def refused_by_header() -> None:
    """Section 3.1."""
    for name, offset, value in [("magic", 0, 0x44), ("version", 9, 2), ("chunk-size", 10, 17), ("flags", 11, 1), ("reserved", 15, 1)]:
        vector(f"refused-header-{name}", f"header byte {offset} is {value:#04x}", 300, flip(HEADER + 300 + TAG, offset, value), at="header")
    vector("refused-plaintext", "a file that is not encrypted", 300, [{"hex": (bytes.fromhex(REPEAT) * 11)[:300].hex()}], at="header")


def refused_by_open() -> None:
    """Section 5, step 3: all that the final chunk authenticates."""
    one, three = HEADER + 300 + TAG, HEADER + 2 * SEALED + 1000 + TAG
    long = 2 * CHUNK + 1000
    other = header(hashlib.sha256(b"another salt").digest())
    vector("refused-salt-changed", "one byte of the salt was changed", 300, flip(one, 20, SALT[4] ^ 1), at="open")
    mixed = [{"hex": other.hex()}, *cut((HEADER, one))]
    vector("refused-header-of-another", "the header of another container of the same path", 300, mixed, at="open")
    vector("refused-final-chunk-changed", "one byte of the final chunk was changed", 300, flip(one, HEADER + 7, 0), at="open")
    vector("refused-byte-appended", "one byte more at the end", 300, [*cut((0, one)), {"hex": "00"}], at="open")
    vector("refused-cut-at-chunk", "the final chunk is missing", long, cut((0, HEADER + 2 * SEALED)), at="open")
    vector("refused-cut-in-chunk", "the file ends inside chunk 1", long, cut((0, HEADER + SEALED + 500)), at="open")
    vector("refused-one-byte-short", "the last byte is missing", long, cut((0, three - 1)), at="open")
    vector("refused-chunk-dropped", "chunk 1 of 3 is missing", long, cut((0, HEADER + SEALED), (HEADER + 2 * SEALED, three)), at="open")
    vector("refused-chunk-doubled", "chunk 0 comes twice", long, cut((0, HEADER + SEALED), (HEADER, three)), at="open")
    vector("refused-chunk-appended", "the final chunk comes twice", CHUNK, cut((0, HEADER + SEALED), (HEADER, HEADER + SEALED)), at="open")
    vector("refused-dataset-key", "another dataset key", 300, at="open", open_with={"dataset_key": hashlib.sha256(b"other").hexdigest()})
    vector("refused-dataset", "the file of another dataset", 300, at="open", open_with={"dataset": "ffeeddccbbaa99887766554433221100"})
    vector("refused-path", "the file was renamed", 300, at="open", open_with={"path": "part-00001-6f1c2d3e.csv"})


def refused_by_chunk() -> None:
    """Section 5, step 4."""
    long, size = 2 * CHUNK + 1000, HEADER + 2 * SEALED + 1000 + TAG
    swapped = cut((0, HEADER), (HEADER + SEALED, HEADER + 2 * SEALED), (HEADER, HEADER + SEALED), (HEADER + 2 * SEALED, size))
    vector("refused-chunks-swapped", "chunks 0 and 1 have changed places", long, swapped, at="chunk")
    vector("refused-first-chunk-changed", "one byte of chunk 0 was changed", long, flip(size, HEADER + 100, 0), at="chunk")
    vector("refused-middle-tag-changed", "one byte of chunk 1's tag was changed", long, flip(size, HEADER + 2 * SEALED - 1, 0), at="chunk")


def derivation() -> None:
    """Section 2, for Parquet and for paths."""
    folder = HERE.parent / "derive"
    paths = ["part-00000-6f1c2d3e.parquet", "origin=EWR/part-0.parquet", "année/π.parquet"]
    files = [
        {
            "dataset_key": KEY.hex(),
            "dataset": DATASET,
            "path": path,
            "file_key": file_key(KEY, "parquet", DATASET, path, b"").hex(),
            "aad_prefix": hashlib.sha256(b"\0".join([b"confide-parquet-v1", DATASET.encode(), path.encode()])).hexdigest(),
        }
        for path in paths
    ]
    for number, data in enumerate(files):
        (folder / f"parquet-{number}.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    bad = ["", "/", "/etc/passwd", "a/", "a//b", ".", "./a", "a/.", "..", "../a", "a/../b", "a\\b", "a\u0000b", "a\nb", "a\u007f"]
    bad += ["x" * 1025, "é" * 513]
    (folder / "paths-refused.json").write_text(json.dumps({"paths": bad}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    opened()
    refused_by_size()
    refused_by_header()
    refused_by_open()
    refused_by_chunk()
    derivation()
