"""The local master key: what it wraps opens only with the same key and context, and only proper ways in are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.crypto.secret import SecretBytes
from confide.errors import CredentialError, StoreError, UnwrapError
from confide.keys.custody.local import KeyFile, MasterKey, Passphrase

_MASTER = MasterKey(SecretBytes(bytes(range(32))))
_CONTEXT = {"use": "kek", "key": "airline/flights", "version": 1}


def test_wrapped_secret_opens_with_the_same_context() -> None:
    secret = SecretBytes.random()
    assert _MASTER.unwrap(_MASTER.wrap(secret, context=_CONTEXT), context=_CONTEXT).reveal() == secret.reveal()


@pytest.mark.parametrize("context", [{**_CONTEXT, "version": 2}, {**_CONTEXT, "key": "airline/crews"}, {**_CONTEXT, "use": "rows"}, {}])
def test_secret_for_another_context_is_refused(context: dict[str, object]) -> None:
    wrapped = _MASTER.wrap(SecretBytes.random(), context=_CONTEXT)
    with pytest.raises(UnwrapError):
        _MASTER.unwrap(wrapped, context=context)


@given(st.data())
def test_any_changed_or_cut_byte_is_refused(data: st.DataObject) -> None:
    wrapped = bytearray(_MASTER.wrap(SecretBytes(b"x" * 32), context=_CONTEXT))
    place = data.draw(st.integers(0, len(wrapped) - 1))
    if data.draw(st.booleans()):
        wrapped[place] ^= data.draw(st.integers(1, 255))
    else:
        del wrapped[place:]
    with pytest.raises(UnwrapError):
        _MASTER.unwrap(bytes(wrapped), context=_CONTEXT)


def test_two_wraps_of_one_secret_differ() -> None:
    secret = SecretBytes.random()
    assert _MASTER.wrap(secret, context=_CONTEXT) != _MASTER.wrap(secret, context=_CONTEXT)


def test_passphrase_gives_the_same_key_under_the_same_parameters_only() -> None:
    way = Passphrase(SecretBytes("korrektes Pferd ü".encode()))
    parameters = way.new_parameters()
    wrapped = way.unlock(parameters).wrap(SecretBytes(b"x" * 32), context=_CONTEXT)
    assert way.unlock(parameters).unwrap(wrapped, context=_CONTEXT).reveal() == b"x" * 32
    with pytest.raises(UnwrapError):
        way.unlock(way.new_parameters()).unwrap(wrapped, context=_CONTEXT)


def test_short_passphrase_is_refused() -> None:
    with pytest.raises(StoreError, match="short"):
        Passphrase(SecretBytes(b"1234567"))


@pytest.mark.parametrize(
    "changes", [{"n": 2**26}, {"n": 0}, {"n": 1000}, {"salt": "not base64!"}, {"kind": "key-file"}, {"r": "8"}], ids=str
)
def test_damaged_or_hostile_passphrase_parameters_are_refused(changes: dict[str, object]) -> None:
    way = Passphrase(SecretBytes(b"correct horse"))
    with pytest.raises(StoreError):
        way.unlock({**way.new_parameters(), **changes})


def test_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    way = KeyFile.create(tmp_path / "master.key")
    way.path.chmod(0o640)
    with pytest.raises(StoreError, match="other users"):
        way.unlock(way.new_parameters())


def test_key_file_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(StoreError, match="32 bytes"):
        KeyFile(path).unlock({"kind": "key-file"})


def test_missing_key_file_is_refused_and_a_present_one_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        KeyFile(tmp_path / "none").unlock({"kind": "key-file"})
    KeyFile.create(tmp_path / "master.key")
    with pytest.raises(CredentialError):
        KeyFile.create(tmp_path / "master.key")
