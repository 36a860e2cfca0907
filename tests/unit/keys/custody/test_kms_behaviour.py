"""What every custody of the master key must do, run against each.

The local ones; SoftHSM2; moto's AWS KMS and PyKMIP's server over TLS; a stand-in for Vault (see ``support.custody.transit``).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import pytest
from support.custody.backends import CONTEXT, Local, Service

from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, CustodyError, CustodyOfflineError, UnwrapError
from confide.keys.custody.protocol import Kms

Backend = Local | Service
_SAMPLES = 24


def opens(kms: Kms, wrapped: bytes) -> bytes:
    return kms.unwrap(wrapped, context=CONTEXT).reveal()


def test_what_is_wrapped_opens_again_and_with_the_same_key_opened_anew(backend: Backend) -> None:
    secret = secrets.token_bytes(32)
    wrapped = backend.kms.wrap(SecretBytes(secret), context=CONTEXT)
    assert opens(backend.kms, wrapped) == opens(backend.again, wrapped) == secret


@pytest.mark.parametrize("length", [1, 31, 240, 4096])
def test_secrets_of_other_lengths_open_again(backend: Backend, length: int) -> None:
    secret = secrets.token_bytes(length)
    assert opens(backend.kms, backend.kms.wrap(SecretBytes(secret), context=CONTEXT)) == secret


def test_the_secret_is_not_in_what_is_wrapped_which_differs_each_time(backend: Backend) -> None:
    secret = secrets.token_bytes(32)
    first, second = (backend.kms.wrap(SecretBytes(secret), context=CONTEXT) for _ in range(2))
    assert first != second
    assert secret not in first + second


@pytest.mark.parametrize("context", [{**CONTEXT, "version": 2}, {**CONTEXT, "key": "airline/crews"}, {**CONTEXT, "use": "x"}, {}], ids=str)
def test_another_context_is_refused(backend: Backend, context: dict[str, object]) -> None:
    wrapped = backend.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with pytest.raises(UnwrapError):
        backend.kms.unwrap(wrapped, context=context)


def test_another_key_is_refused(backend: Backend) -> None:
    wrapped = backend.other_key.wrap(SecretBytes.random(), context=CONTEXT)
    with pytest.raises((UnwrapError, CustodyError)) as refused:
        opens(backend.kms, wrapped)
    assert not isinstance(refused.value, CustodyOfflineError)


def _changed(wrapped: bytes) -> Iterator[bytes]:
    step = max(1, len(wrapped) // _SAMPLES)
    for place in range(0, len(wrapped), step):
        yield wrapped[:place] + bytes([wrapped[place] ^ (1 << place % 8)]) + wrapped[place + 1 :]
    yield wrapped[:-1] + bytes([wrapped[-1] ^ 0x80])


def test_a_changed_byte_is_refused(backend: Backend) -> None:
    wrapped = backend.kms.wrap(SecretBytes.random(), context=CONTEXT)
    for changed in _changed(wrapped):
        with pytest.raises((UnwrapError, CustodyError)) as refused:
            opens(backend.kms, changed)
        assert not isinstance(refused.value, CustodyOfflineError)
    assert opens(backend.kms, wrapped)


def test_a_cut_or_longer_one_is_refused(backend: Backend) -> None:
    wrapped = backend.kms.wrap(SecretBytes.random(), context=CONTEXT)
    for changed in (b"", wrapped[:1], wrapped[:7], wrapped[:40], wrapped[:-1], wrapped + b"\0"):
        with pytest.raises((UnwrapError, CustodyError)):
            opens(backend.kms, changed)


def test_what_was_wrapped_before_a_rotation_still_opens(service: Service) -> None:
    secret = secrets.token_bytes(32)
    before = service.kms.wrap(SecretBytes(secret), context=CONTEXT)
    rotated = service.rotate()
    after = rotated.wrap(SecretBytes(secret), context=CONTEXT)
    assert opens(rotated, before) == opens(rotated, after) == secret


def test_a_key_that_is_disabled_is_a_refusal(service: Service) -> None:
    wrapped = service.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with service.disabled() as (kms, older):
        for call in (lambda: kms.wrap(SecretBytes.random(), context=CONTEXT), lambda: opens(kms, older)):
            with pytest.raises(CustodyError) as refused:
                call()
            assert refused.value.code == "custody-refused"
    assert opens(service.kms, wrapped)


def test_a_wrong_pin_or_token_is_a_refusal(service: Service) -> None:
    wrapped = service.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with service.denied() as kms, pytest.raises(CustodyError):
        opens(kms, wrapped)
    assert opens(service.kms, wrapped)


def test_a_custody_that_is_away_says_so_and_is_found_when_it_is_back(service: Service) -> None:
    wrapped = service.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with service.offline():
        for call in (lambda: service.kms.wrap(SecretBytes.random(), context=CONTEXT), lambda: opens(service.kms, wrapped)):
            with pytest.raises(CustodyOfflineError) as away:
                call()
            assert (away.value.code, away.value.exit_status) == ("custody-offline", 6)
    assert opens(service.kms, wrapped)


def test_nothing_that_fails_tells_a_secret(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = SecretBytes(b"the secret that was wrapped here")
    wrapped = service.kms.wrap(secret, context=CONTEXT)
    said = [repr(service.kms), repr(vars(service.kms))]
    with service.disabled() as (kms, older):
        said.append(_said(kms, older))
    with service.denied() as kms:
        said.append(_said(kms, wrapped))
    with service.offline():
        said.append(_said(service.kms, wrapped))
    said.append(_said(service.kms, wrapped[:-1]))
    said += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    for hidden in (secret.reveal(), *service.credentials):
        assert hidden.decode("latin-1") not in "\n".join(said)


def _said(kms: Kms, wrapped: bytes) -> str:
    with pytest.raises(ConfideError) as failed:
        opens(kms, wrapped)
    return f"{failed.value!r} {failed.value.to_json()} {failed.value.__cause__!r}"
