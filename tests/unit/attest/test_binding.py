import dataclasses
import hashlib
import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from confide.attest.binding import NonceBook, SessionBinding, report_data
from confide.attest.evidence import NodeContext
from confide.errors import BindingError, NonceError
from confide.ids import Nonce, Role

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "binding.json").read_text())


def _binding(base, /, **changes: object):
    fields = {"role": Role.WORKER, "exporter": bytes(32), "nonce": Nonce(b"n" * 32), "spki": b"key", "context": base}
    return SessionBinding(**{**fields, **changes})


def test_all_binding_vectors_are_here() -> None:
    assert len(VECTORS["vectors"]) == 5


def test_values_of_a_session_are_not_in_its_repr(context) -> None:
    """The exporter is a secret of the session, and the nonce is until it is used."""
    binding = _binding(context)
    assert repr(binding) == f"SessionBinding(role={Role.WORKER!r}, context={context!r})"
    assert binding.spki_digest not in repr(binding)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["id"])
def test_binding_vector(vector) -> None:
    context = NodeContext.from_json(vector["context"])
    assert context.digest.hex() == vector["context_digest"]
    binding = SessionBinding(
        role=Role(vector["role"]),
        exporter=bytes.fromhex(vector["exporter"]),
        nonce=Nonce(bytes.fromhex(vector["nonce"])),
        spki=bytes.fromhex(vector["spki"]),
        context=context,
    )
    assert binding.report_data.hex() == vector["report_data"]


def test_report_data_is_the_documented_hash() -> None:
    got = report_data(role=Role.DRIVER, exporter=b"e" * 32, nonce=Nonce(b"n" * 32), spki=b"spki", context=b"c" * 48)
    text = b"confide-session-v1\0" + b"\1" + b"e" * 32 + b"n" * 32 + hashlib.sha256(b"spki").digest() + b"c" * 48
    assert got == hashlib.sha512(text).digest()


def test_every_input_changes_the_report_data(context) -> None:
    other = dataclasses.replace(context, node="worker-2")
    changes = [{"role": Role.DRIVER}, {"exporter": b"e" * 32}, {"nonce": Nonce(bytes(32))}, {"spki": b"other"}, {"context": other}]
    results = {_binding(context, **change).report_data for change in [{}, *changes]}
    assert len(results) == 6


@pytest.mark.parametrize("change", [{"exporter": bytes(31)}, {"exporter": bytes(64)}, {"nonce": Nonce(b"")}, {"spki": b""}])
def test_input_of_another_length_is_refused_not_padded(context, change) -> None:
    with pytest.raises(BindingError):
        _ = _binding(context, **change).report_data


def test_context_digest_of_another_length_is_refused() -> None:
    with pytest.raises(BindingError):
        report_data(role=Role.DRIVER, exporter=bytes(32), nonce=Nonce(bytes(32)), spki=b"k", context=bytes(32))


def test_spki_digest_is_sha256_of_the_key(context) -> None:
    assert _binding(context).spki_digest == hashlib.sha256(b"key").hexdigest()


def test_nonce_is_taken_once(now) -> None:
    book = NonceBook(timedelta(seconds=60))
    nonce = book.issue(now)
    book.redeem(nonce, now)
    with pytest.raises(NonceError, match="used before"):
        book.redeem(nonce, now)


def test_nonce_of_somebody_else_is_refused(now) -> None:
    with pytest.raises(NonceError):
        NonceBook(timedelta(seconds=60)).redeem(Nonce(bytes(32)), now)


def test_expired_nonce_is_refused_and_gone(now) -> None:
    book = NonceBook(timedelta(seconds=60))
    nonce = book.issue(now)
    with pytest.raises(NonceError, match="expired"):
        book.redeem(nonce, now + timedelta(seconds=60))
    with pytest.raises(NonceError, match="unknown"):
        book.redeem(nonce, now)


def test_expired_nonces_are_forgotten(now) -> None:
    book = NonceBook(timedelta(seconds=60))
    for _ in range(10):
        book.issue(now)
    book.issue(now + timedelta(seconds=61))
    assert len(book._expiry) == 1


def test_flood_of_nonces_is_refused(now) -> None:
    book = NonceBook(timedelta(seconds=60))
    for _ in range(100_000):
        book.issue(now)
    with pytest.raises(NonceError, match="too many"):
        book.issue(now)


def test_only_one_of_many_threads_redeems_a_nonce(now) -> None:
    book = NonceBook(timedelta(seconds=60))
    nonce = book.issue(now)
    accepted: list[bool] = []

    def redeem() -> None:
        try:
            book.redeem(nonce, now)
        except NonceError:
            return
        accepted.append(True)

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted == [True]
