"""``python -m support.volumes FOLDER SOURCE... [--kill-at N]``: encrypts as ``confide data encrypt --resume`` does, without a broker.

With ``--kill-at`` it kills itself at the N-th time that it opens, makes, links, renames or removes something where the dataset is to be.
Prints its peak memory.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import table_files
from confide.data.commit import add_snapshot, create_dataset
from confide.data.finding import find_sources
from confide.data.journal import Begun
from confide.data.memory import spare_memory
from confide.data.snapshots import load_manifest
from confide.data.staging import NewKey, open_kept, resumed_or_new, task_of
from confide.data.tables import TableInput, format_of
from confide.data.work import snapshot_made_by
from confide.ids import new_dataset_id

KEK, BROKER = SecretBytes(b"k" * 32), SecretBytes(b"b" * 32)
_EVENTS = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"})


def kill_at(number: int, folder: Path) -> None:
    """End this process without a word when it uses a name in ``folder`` for the ``number``-th time, before it does."""
    left = [number]

    def hook(event: str, args: tuple[object, ...]) -> None:
        within = event in {"os.remove", "os.rmdir"} and args[1] != -1  # names in a folder that is taken away with all that it holds
        if within or (event in _EVENTS and str(args[0]).startswith(str(folder))):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def key_of(folder: Path) -> SecretBytes:
    """The key of a dataset that was made here."""
    return unwrap(BROKER, load_manifest(folder).unverified.wrapped)


def encrypt(folder: Path, names: list[str], signer: SigningKey) -> None:
    """One try."""
    found = find_sources(names).sources
    form = format_of(found[0].name)
    source = TableInput(found, form) if form is not None else found
    now = datetime.now(UTC)
    if (folder / "_confide.json").exists() and "--append" in sys.argv:
        parent = load_manifest(folder)
        secret = key_of(folder)

        def same(_: Begun) -> SecretBytes:
            return secret

        task = task_of(source, mode="append")
        assert task is not None
        with resumed_or_new(folder, task, open_key=same, done=snapshot_made_by(task, parent, secret)) as attempt:
            if attempt.journal is None and attempt.done is None:
                attempt.begin(task, parent.unverified.dataset, secret)
            add_snapshot(source, parent, "append", dataset_key=secret, signer=signer, now=now, attempt=attempt)
        return
    task = task_of(source)
    assert task is not None
    done = snapshot_made_by(task, load_manifest(folder), key_of(folder)) if (folder / "_confide.json").exists() else None
    with resumed_or_new(folder, task, open_key=open_kept(KEK), done=done) as attempt:
        if attempt.done is not None:
            print("all done before")  # noqa: T201 -- what the test reads
            return
        new = attempt.key
        if new is None:
            dataset, secret = new_dataset_id(), SecretBytes.random()
            new = NewKey(dataset, secret, wrapped(secret, dataset))
            attempt.begin_new(task, new, KEK)
        print("finished before:", len(attempt.finished))  # noqa: T201 -- what the test reads
        create_dataset(
            source, folder, name="d", owner="o", dataset=new.dataset, dataset_key=new.secret, wrapped=new.wrapped, signer=signer, now=now,
            attempt=attempt,
        )  # fmt: skip


def wrapped(secret: SecretBytes, dataset: str) -> WrappedKey:
    """As a broker gives it."""
    return wrap(BROKER, secret, key="o/k", version=1, dataset=dataset)


def main() -> None:
    """See the module."""
    spare_memory()
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
    table_files.ROWS_PER_FILE = int(options.get("rows", table_files.ROWS_PER_FILE))  # type: ignore[misc]
    signer = SigningKey.load_private(Path(words[0]))
    if "kill-at" in options:
        kill_at(int(options["kill-at"]), Path(words[1]).parent)
    encrypt(Path(words[1]), words[2:], signer)
    peak = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    print("peak kB:", peak.split()[1])  # noqa: T201 -- what the test reads


if __name__ == "__main__":
    main()
