"""Secrets do not travel by accident."""

from __future__ import annotations

import copy
import pickle

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import SecretLeakError


def test_secret_is_in_no_text_form() -> None:
    secret = SecretBytes(b"canary-canary-canary")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s" % secret):  # noqa: UP031 - the old form is the point
        assert "canary" not in text


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secret_cannot_be_pickled_or_copied(leak: object) -> None:
    with pytest.raises(SecretLeakError):
        leak(SecretBytes(b"x" * 32))  # type: ignore[operator]


def test_secret_is_not_compared_or_hashed() -> None:
    with pytest.raises(SecretLeakError):
        _ = SecretBytes(b"a") == SecretBytes(b"a")
    with pytest.raises(TypeError):
        hash(SecretBytes(b"a"))


def test_wiped_secret_is_gone() -> None:
    secret = SecretBytes.random()
    assert len(secret.reveal()) == len(secret) == 32
    secret.wipe()
    with pytest.raises(SecretLeakError):
        secret.reveal()
