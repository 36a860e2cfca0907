"""Python and Java agree about containers, byte for byte: what opens, what is refused and where, and what was given out before."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.container_decoder import CHUNK, HEADER, SEALED, decode
from support.container_jvm import ContainerJvm, container_jvm
from support.container_vectors import CONTAINERS, file_of, given, load, plaintext_of

from confide.crypto.container import ContainerReader, seal_stream
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError
from confide.ids import DatasetId, RunId
from confide.node.keyring import Keyring, Lease

pytestmark = [pytest.mark.spark, pytest.mark.timeout(120)]

KEY, RUN = SecretBytes(bytes(range(32))), RunId("attempts-1")
DATASET, OUTPUT = DatasetId("0123456789abcdef" * 2), DatasetId("fedcba9876543210" * 2)
PATH = "a.csv"
LENGTHS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 100)
NOISE = os.urandom(max(LENGTHS))
STEPS = {
    "size": "no container has a size of",
    "header": "the header is not that of a container",
    "commitment": "of another key, dataset or path",
    "open": "does not open",
    "chunk": "does not open",
}
"""What Java says at each step that refuses."""


class Bench:
    """The JVM and files for it."""

    def __init__(self, jvm: ContainerJvm, ring: Keyring, root: Path) -> None:
        self.jvm, self.ring, self.root = jvm, ring, root
        self.count = 0

    def place(self, file: bytes, key: SecretBytes, dataset: DatasetId, path: str) -> Path:
        """Make a dataset of this one file."""
        self.count += 1
        folder = self.root / str(self.count)
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(file)
        self.ring.open_input(str(folder), dataset, lease(key), files=frozenset({path}), refresh=partial(lease, key))
        return folder / path

    def opened(self, file: bytes, key: SecretBytes, dataset: DatasetId, path: str) -> list[str]:
        """What reading it says: whole chunks at once, and parts of chunks."""
        place = str(self.place(file, key, dataset, path))
        whole, parts = (self.jvm.ask("open", place, str(most)) for most in (100_000, 40_000))
        assert whole == parts
        return whole


def lease(key: SecretBytes) -> Lease:
    return Lease(SecretBytes(key.reveal()), math.inf)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root, ring = tmp_path_factory.mktemp("containers"), Keyring()
    with container_jvm(root, ring) as jvm:
        yield Bench(jvm, ring, root)


def sealed(length: int) -> bytes:
    out = io.BytesIO()
    seal_stream(io.BytesIO(NOISE[:length]), out, KEY, DATASET, PATH)
    return out.getvalue()


def python_verdict(file: bytes) -> list[str]:
    """As ``Containers.java`` tells it, without its words."""
    digest, step = hashlib.sha256(), "open"
    try:
        with ContainerReader(io.BytesIO(file), KEY, DATASET, PATH) as reader:
            step = "read"
            while part := reader.read(100_000):
                digest.update(part)
    except IntegrityError:
        return ["refused", step, digest.hexdigest()]
    return ["opened", "-", digest.hexdigest()]


def boundaries(file: bytes) -> list[int]:
    """Where the header and each chunk end."""
    return [*range(HEADER, len(file), SEALED), len(file)]


def rearranged(length: int) -> Iterator[bytes]:
    """Every file of the chunks of two containers of one path that is whole but for one thing, at each boundary there is."""
    file, other = sealed(length), sealed(length)
    chunks = [file[start:end] for start, end in zip(boundaries(file), boundaries(file)[1:], strict=False)]
    foreign = [other[start:end] for start, end in zip(boundaries(file), boundaries(file)[1:], strict=False)]
    for end in boundaries(file):
        yield from (file[: end + by] for by in (-1, 0, 1, 16, 17) if end + by < len(file))
        yield file[:end] + b"\0" + file[end:]
    for at in range(len(chunks)):
        orders = [chunks[:at] + chunks[at + 1 :], chunks[: at + 1] + chunks[at:], [*chunks, chunks[at]], [chunks[at], *chunks]]
        orders += [[*chunks[:to], chunks[at], *chunks[to + 1 :]] for to in range(len(chunks)) if to != at]
        orders += [[*chunks[:at], foreign[at], *chunks[at + 1 :]]]
        orders += [chunks[:at] + chunks[at : at + 2][::-1] + chunks[at + 2 :], chunks[:at] + chunks[at:][::-1]]
        yield from (file[:HEADER] + b"".join(order) for order in orders)
    yield other[:HEADER] + file[HEADER:]
    yield file + other[HEADER:]
    yield from (changed(file, at) for end in boundaries(file) for at in (end - 1, end, end + 40) if at < len(file))


def changed(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 0x80]) + file[at + 1 :]


# --- tests -----------------------------------------------------------------------------------------------------------


def test_java_opens_and_refuses_each_vector_as_it_says_at_the_step_it_says(bench: Bench) -> None:
    assert CONTAINERS
    for path in CONTAINERS:
        vector = load(path)
        verdict, step, digest, *words = bench.opened(file_of(vector), *given(vector))
        told = vector["expect"]
        assert (path.stem, verdict) == (path.stem, told)
        if told == "opened":
            assert digest == hashlib.sha256(plaintext_of(vector)).hexdigest()
            continue
        assert (path.stem, step) == (path.stem, "read" if vector["refused_at"] == "chunk" else "open")
        assert "[data-integrity]" in words[0]
        assert STEPS[vector["refused_at"]] in words[0], path.stem


@pytest.mark.parametrize("length", LENGTHS)
def test_python_and_java_agree_on_every_way_to_put_chunks_together(bench: Bench, length: int) -> None:
    assert bench.opened(sealed(length), KEY, DATASET, PATH)[:3] == ["opened", "-", hashlib.sha256(NOISE[:length]).hexdigest()]
    whole = sealed(length)
    files = [*rearranged(length), *(changed(whole, at) for at in range(HEADER) if length == LENGTHS[-1])]
    verdicts = [python_verdict(file) for file in files]
    assert [bench.opened(file, KEY, DATASET, PATH)[:3] for file in files] == verdicts
    opened = [file for file, verdict in zip(files, verdicts, strict=True) if verdict[0] == "opened"]
    assert all(len(file) == len(whole) for file in opened)  # orders that change nothing
    assert len(files) - len(opened) > 10


@pytest.mark.parametrize("length", LENGTHS)
def test_what_java_seals_opens_in_python_and_in_the_independent_decoder(bench: Bench, length: int) -> None:
    plain, folder = bench.root / "plain", bench.root / f"sealed-{length}"
    plain.write_bytes(NOISE[:length])
    folder.mkdir()
    bench.ring.open_output(str(folder), OUTPUT, lease(KEY), run=RUN, refresh=partial(lease, KEY))
    assert bench.jvm.ask("seal", str(plain), str(folder / "b.csv")) == ["done"]
    file = (folder / "b.csv").read_bytes()
    assert ContainerReader(io.BytesIO(file), KEY, OUTPUT, "b.csv").read() == NOISE[:length]
    assert decode(file, KEY.reveal(), OUTPUT, "b.csv") == NOISE[:length]


def attempt(folder: Path, number: int) -> Path:
    """Where Hadoop's committer has attempt ``number`` of one task write; the committed path is the same for all of them."""
    return folder / "_temporary" / "0" / "_temporary" / f"attempt_202601010000123_0001_m_000000_{number}" / "part-0.csv"


def test_attempts_of_one_task_at_the_same_time_and_a_retry_seal_under_keys_of_their_own(bench: Bench) -> None:
    plain, folder = bench.root / "rows", bench.root / "attempts"
    plain.write_bytes(NOISE[: CHUNK + 5])
    bench.ring.open_output(str(folder), OUTPUT, lease(KEY), run=RUN, refresh=partial(lease, KEY))
    places = [attempt(folder, number) for number in (0, 1, 2)]
    for place in places[:2]:  # a task and its speculative copy: both at work
        assert bench.jvm.ask("begin", str(plain), str(place)) == ["done"]
    assert bench.jvm.ask("end") == bench.jvm.ask("end") == ["done"]
    assert bench.jvm.ask("seal", str(plain), str(places[2])) == ["done"]  # a retry
    files = [place.read_bytes() for place in places]
    assert bench.jvm.ask("seal", str(plain), str(places[2])) == ["done"]  # and one that writes over what the last one left
    files.append(places[2].read_bytes())
    assert {decode(file, KEY.reveal(), OUTPUT, "part-0.csv") for file in files} == {NOISE[: CHUNK + 5]}  # of one path
    for part in (slice(16, 48), slice(48, HEADER), slice(HEADER, HEADER + SEALED)):  # salt, and so key and commitment, and so ciphertext
        assert len({file[part] for file in files}) == len(files)
