"""A broker's open root key: gone at once when the custody refuses, after the grace when it is away, back when it gives it again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, CredentialError, CustodyError, CustodyOfflineError, SealedError, StoreError, UnwrapError
from confide.keys.custody import seal_state
from confide.keys.custody.local import MasterKey
from confide.keys.custody.root import Custody
from confide.keys.custody.seal_state import Patience, SealableKms, SealChange, boot_time, watching

CONTEXT = {"use": "kek", "key": "a/b", "version": 1}


@dataclass
class World:
    """A custody that answers as it is told, and a clock that is turned by hand."""

    root: bytes = b"r" * 32
    error: ConfideError | None = None
    now: float = 1000.0
    asked: int = 0
    hang: threading.Event | None = None
    patience: Patience = field(default_factory=lambda: Patience(every_s=300, grace_s=3600))

    def ask(self) -> SecretBytes:
        self.asked += 1
        if self.hang is not None:
            self.hang.wait(30)
        if self.error is not None:
            raise self.error
        return SecretBytes(self.root)

    def open(self) -> SealableKms:
        return SealableKms(self.ask, self.patience, clock=lambda: self.now)


def _works(kms: SealableKms) -> bool:
    return kms.unwrap(kms.wrap(SecretBytes(b"x"), context=CONTEXT), context=CONTEXT).reveal() == b"x"


def _sealed(kms: SealableKms) -> bool:
    wrapped = MasterKey(SecretBytes(b"r" * 32)).wrap(SecretBytes(b"x"), context=CONTEXT)
    for call in (lambda: kms.wrap(SecretBytes(b"x"), context=CONTEXT), lambda: kms.unwrap(wrapped, context=CONTEXT)):
        with pytest.raises(SealedError) as refused:
            call()
        assert (refused.value.code, refused.value.exit_status) == ("broker-sealed", 6)
        assert refused.value.hint
    return True


@pytest.mark.parametrize(
    "error", [CustodyError("no"), UnwrapError("no"), CredentialError("open to others"), StoreError("no")], ids=lambda one: one.code
)
def test_a_refusal_seals_at_once(error: ConfideError) -> None:
    world = World()
    kms = world.open()
    world.error = error
    kms.ask_again()
    assert _sealed(kms)
    assert "refuses" in str(kms.sealed)


def test_a_sealed_broker_has_the_key_nowhere_in_it() -> None:
    world = World()
    kms = world.open()
    world.error = CustodyError("no")
    kms.ask_again()
    assert not any(isinstance(value, MasterKey | SecretBytes) for value in vars(kms).values())


def test_a_custody_that_is_away_is_no_refusal_until_the_grace_is_over() -> None:
    world = World()
    kms = world.open()
    world.error = CustodyOfflineError("away")
    for now, open_ in ((1300, True), (4599, True), (4600, False)):
        world.now = now
        kms.ask_again()
        assert (kms.sealed is None) is open_
    assert _sealed(kms)


def test_without_grace_the_first_silence_seals() -> None:
    world = World(patience=Patience(every_s=300, grace_s=0))
    kms = world.open()
    world.error = CustodyOfflineError("away")
    kms.ask_again()
    assert _sealed(kms)


def test_a_question_that_hangs_seals_all_the_same() -> None:
    """An HSM's library may never return: no thread's answer is waited for."""
    world = World()
    kms = world.open()
    world.now += 300 + 3600
    assert _works(kms)
    world.now += 1
    assert _sealed(kms)
    assert world.asked == 1


def test_an_answer_starts_the_time_anew_and_counts_from_when_it_was_asked_for() -> None:
    world = World()
    kms = world.open()
    world.now += 3000
    kms.ask_again()
    world.now += 3900
    assert _works(kms)
    world.now += 1
    assert _sealed(kms)


def test_it_opens_again_when_the_custody_gives_the_same_key_again() -> None:
    world = World()
    kms = world.open()
    wrapped = kms.wrap(SecretBytes(b"x"), context=CONTEXT)
    for error in (CustodyError("no"), CustodyOfflineError("away")):
        world.error = error
        world.now += 7200
        kms.ask_again()
        assert _sealed(kms)
        world.error = None
        kms.ask_again()
        assert kms.sealed is None
        assert kms.unwrap(wrapped, context=CONTEXT).reveal() == b"x"


def test_another_key_than_before_seals() -> None:
    world = World()
    kms = world.open()
    world.root = b"s" * 32
    kms.ask_again()
    assert _sealed(kms)


def test_a_custody_that_refuses_at_first_opens_nothing() -> None:
    for error in (CustodyError("no"), CustodyOfflineError("away")):
        with pytest.raises(CustodyError):
            World(error=error).open()


def test_it_is_asked_on_time_and_sooner_after_a_failure() -> None:
    world = World()
    kms = world.open()
    assert kms.next_in() == 300
    world.now += 300
    world.error = CustodyOfflineError("away")
    kms.ask_again()
    assert kms.next_in() == 15


def test_the_watch_asks_by_itself_and_ends() -> None:
    world = World(patience=Patience(every_s=0.01, grace_s=0))
    kms = SealableKms(world.ask, world.patience)
    with watching(kms, lambda _: None):
        for _ in range(500):
            if world.asked > 3:
                break
            threading.Event().wait(0.01)
        world.error = CustodyError("no")
        for _ in range(500):
            if kms.sealed:
                break
            threading.Event().wait(0.01)
    assert world.asked > 3
    assert _sealed(kms)


def test_each_change_is_noted_in_order_and_again_if_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal_state, "_RETRY_S", 0.05)
    world = World()
    kms = world.open()
    noted: list[str] = []
    failures = [StoreError("full"), StoreError("full")]

    def note(change: SealChange) -> None:
        if failures:
            raise failures.pop()
        noted.append(change.reason)

    with watching(kms, note):
        world.error = CustodyError("no")
        kms.ask_again()
        kms.ask_again()
        world.error = None
        kms.ask_again()
        end = threading.Event()
        for _ in range(500):
            if len(noted) == 3:
                break
            end.wait(0.01)
        world.now += 300 + 3600 + 1
        assert kms.sealed
    assert noted == ["", "the custody of the master key refuses", "", "the custody of the master key could not be reached for too long"]


def test_a_local_key_needs_no_watch() -> None:
    before = threading.active_count()
    with watching(MasterKey(SecretBytes(b"r" * 32)), lambda _: None):
        assert threading.active_count() == before


def test_the_clock_goes_on_while_the_machine_sleeps() -> None:
    assert boot_time() > 0


@pytest.mark.parametrize("changes", [{"service": "aws"}, {"kind": "key-file"}, {"root_key": "!"}, {"root_key": 5}, {"more": 1}], ids=str)
def test_a_store_of_another_custody_or_with_damaged_parameters_is_refused(changes: dict[str, object]) -> None:
    custody = Custody(MasterKey(SecretBytes(b"m" * 32)), "vault")
    with pytest.raises(StoreError):
        custody.unlock({**custody.new_parameters(), **changes})
