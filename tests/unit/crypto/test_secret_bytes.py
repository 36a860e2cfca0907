"""Bytes that are wiped on one thread while another one takes them."""

from __future__ import annotations

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import SecretLeakError


def test_nobody_takes_zeros_for_a_key_that_is_wiped_meanwhile() -> None:
    class Wiped(bytearray):
        def __bytes__(self) -> bytes:
            secret.wipe()
            return bytes(bytearray(self))

    secret = SecretBytes(b"")
    data = secret._data = Wiped(b"k" * 32)
    with pytest.raises(SecretLeakError):
        secret.reveal()
    assert data == bytearray(32)


def test_they_are_gone_for_others_before_they_are_overwritten() -> None:
    class Watched(bytearray):
        def __setitem__(self, place: object, value: object) -> None:
            with pytest.raises(SecretLeakError):
                secret.reveal()
            super().__setitem__(place, value)  # type: ignore[index, assignment]

    secret = SecretBytes(b"")
    data = secret._data = Watched(b"k" * 32)
    secret.wipe()
    assert data == bytearray(32)
