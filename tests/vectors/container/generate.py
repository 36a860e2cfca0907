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
CHUNK, TAG, HEADER = 65536, 16, 80
SEALED = CHUNK + TAG
KEY = hashlib.sha256(b"confide test vector: dataset key").digest()
SALT = hashlib.sha256(b"confide test vector: salt").digest()
DATASET = "00112233445566778899aabbccddeeff"
PATH = "part-00000-6f1c2d3e.csv"
REPEAT = b"origin,dest,delay\nEWR,IAH,11\n".hex()


def hkdf(ikm: bytes, salt: bytes, info: bytes, blocks: int) -> bytes:
    """RFC 5869 for whole blocks of output."""
    prk, okm, block = hmac.digest(salt or bytes(32), ikm, "sha256"), b"", b""
    for number in range(1, blocks + 1):
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        okm += block
    return okm


def parquet_key(key: bytes, dataset: str, path: str) -> bytes:
    """Section 2.2."""
    return hkdf(key, b"", b"\0".join([b"confide-file-v1", b"parquet", dataset.encode(), path.encode()]), 1)


def container_keys(key: bytes, dataset: str, path: str, salt: bytes) -> tuple[bytes, bytes]:
    """Section 2.2: file key and commitment."""
    both = hkdf(key, salt, b"\0".join([b"confide-file-v2", b"container", dataset.encode(), path.encode()]), 2)
    return both[:32], both[32:]


def header(salt: bytes, commitment: bytes) -> bytes:
    """Section 3.1."""
    return b"CONFIDE2" + bytes([0, 2, 16, 0, 0, 0, 0, 0]) + salt + commitment


def seal_chunk(key: bytes, head: bytes, index: int, plaintext: bytes, *, last: bool) -> bytes:
    """Section 3.2."""
    return AESGCM(key).encrypt(bytes(7) + index.to_bytes(4, "big") + bytes([last]), plaintext, head)


def seal(plaintext: bytes, path: str) -> bytes:
    """The whole container."""
    key, commitment = container_keys(KEY, DATASET, path, SALT)
    return sealed_under(key, header(SALT, commitment), plaintext)


def sealed_under(key: bytes, head: bytes, plaintext: bytes) -> bytes:
    """Section 3.2, with any key and header."""
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
    key, commitment = container_keys(KEY, DATASET, path, SALT)
    file = b"".join(bytes.fromhex(p["hex"]) if "hex" in p else sealed[p["slice"][0] : p["slice"][1]] for p in assemble)
    data = {
        "scenario": scenario,
        "dataset_key": KEY.hex(),
        "dataset": DATASET,
        "path": path,
        "salt": SALT.hex(),
        "file_key": key.hex(),
        "commitment": commitment.hex(),
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
    key, commitment = container_keys(KEY, DATASET, PATH, SALT)
    head = header(SALT, commitment)
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
    fields = [("magic", 0, 0x44), ("magic-of-version-1", 7, 0x31), ("version", 9, 1), ("chunk-size", 10, 17), ("flags", 11, 1)]
    for name, offset, value in [*fields, ("reserved", 15, 1)]:
        vector(f"refused-header-{name}", f"header byte {offset} is {value:#04x}", 300, flip(HEADER + 300 + TAG, offset, value), at="header")
    vector("refused-plaintext", "a file that is not encrypted", 300, [{"hex": (bytes.fromhex(REPEAT) * 11)[:300].hex()}], at="header")


def refused_by_commitment() -> None:
    """Section 5, step 2: the header commits to another key than the one that is derived."""
    at = "commitment"
    one, text = HEADER + 300 + TAG, (bytes.fromhex(REPEAT) * 11)[:300]
    key, commitment = container_keys(KEY, DATASET, PATH, SALT)
    salt = hashlib.sha256(b"another salt").digest()
    other_key, other_commitment = container_keys(hashlib.sha256(b"other").digest(), DATASET, PATH, SALT)
    vector("refused-salt-changed", "one byte of the salt was changed", 300, flip(one, 20, SALT[4] ^ 1), at=at)
    for name, offset in [("first", 48), ("last", 79)]:
        changed = flip(one, offset, commitment[offset - 48] ^ 1)
        vector(f"refused-commitment-{name}-byte-changed", f"byte {offset - 48} of the commitment was changed", 300, changed, at=at)
    mixed = [*cut((0, 16)), {"hex": salt.hex()}, *cut((48, one))]
    vector("refused-salt-of-another", "the salt of another container of the same path", 300, mixed, at=at)
    # What makes the commitment worth having: files in which all chunks open under the derived key, and the header says otherwise.
    for name, told in [("of-another-key", other_commitment), ("of-zeros", bytes(32))]:
        forged = sealed_under(key, header(SALT, told), text)
        scenario = f"sealed under the right key, with a commitment {name.replace('-', ' ')}"
        vector(f"refused-commitment-{name}", scenario, 300, [{"hex": forged.hex()}], at=at)
    forged = sealed_under(other_key, header(SALT, other_commitment), text)
    vector("refused-sealed-under-another-key", "a whole container of another dataset key", 300, [{"hex": forged.hex()}], at=at)
    vector("refused-dataset-key", "another dataset key", 300, at=at, open_with={"dataset_key": hashlib.sha256(b"other").hexdigest()})
    vector("refused-dataset", "the file of another dataset", 300, at=at, open_with={"dataset": "ffeeddccbbaa99887766554433221100"})
    vector("refused-path", "the file was renamed", 300, at=at, open_with={"path": "part-00001-6f1c2d3e.csv"})


def refused_by_open() -> None:
    """Section 5, step 3: all that the final chunk authenticates."""
    one, three = HEADER + 300 + TAG, HEADER + 2 * SEALED + 1000 + TAG
    long = 2 * CHUNK + 1000
    salt = hashlib.sha256(b"another salt").digest()
    other = header(salt, container_keys(KEY, DATASET, PATH, salt)[1])
    mixed = [{"hex": other.hex()}, *cut((HEADER, one))]
    vector("refused-header-of-another", "the header of another container of the same path", 300, mixed, at="open")
    key, commitment = container_keys(KEY, DATASET, PATH, SALT)
    bare = AESGCM(key).encrypt(bytes(11) + b"\x01", (bytes.fromhex(REPEAT) * 11)[:300], header(SALT, commitment)[:48])
    unbound = [*cut((0, HEADER)), {"hex": bare.hex()}]
    vector("refused-commitment-not-in-aad", "the chunk was sealed with a part of the header as associated data", 300, unbound, at="open")
    for name, nonce in [("number", bytes(10) + b"\x01\x01"), ("flag", bytes(12))]:
        sealed = AESGCM(key).encrypt(nonce, (bytes.fromhex(REPEAT) * 11)[:300], header(SALT, commitment))
        shown = [*cut((0, HEADER)), {"hex": sealed.hex()}]
        vector(f"refused-nonce-{name}", f"the only chunk was sealed with another {name} in its nonce", 300, shown, at="open")
    vector("refused-final-chunk-changed", "one byte of the final chunk was changed", 300, flip(one, HEADER + 7, 0), at="open")
    vector("refused-byte-appended", "one byte more at the end", 300, [*cut((0, one)), {"hex": "00"}], at="open")
    vector("refused-cut-at-chunk", "the final chunk is missing", long, cut((0, HEADER + 2 * SEALED)), at="open")
    vector("refused-cut-in-chunk", "the file ends inside chunk 1", long, cut((0, HEADER + SEALED + 500)), at="open")
    vector("refused-one-byte-short", "the last byte is missing", long, cut((0, three - 1)), at="open")
    vector("refused-chunk-dropped", "chunk 1 of 3 is missing", long, cut((0, HEADER + SEALED), (HEADER + 2 * SEALED, three)), at="open")
    vector("refused-chunk-doubled", "chunk 0 comes twice", long, cut((0, HEADER + SEALED), (HEADER, three)), at="open")
    vector("refused-chunk-appended", "the final chunk comes twice", CHUNK, cut((0, HEADER + SEALED), (HEADER, HEADER + SEALED)), at="open")


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
            "file_key": parquet_key(KEY, DATASET, path).hex(),
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
    refused_by_commitment()
    refused_by_open()
    refused_by_chunk()
    derivation()
