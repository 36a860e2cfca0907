"""Clock skew: collateral and nonces under a clock that is wrong."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from support.simulated_evidence import NOW

from confide.attest.binding import NonceBook
from confide.errors import CollateralError, NonceError
from confide.ids import Nonce, Tee


@pytest.mark.parametrize("days", [-40, 40])
def test_collateral_outside_its_time_is_refused(verifier, evidence_of, days) -> None:
    with pytest.raises(CollateralError):
        verifier.verify(evidence_of(Tee.SGX), NOW + timedelta(days=days))


def test_small_skew_refuses_nobody(verifier, evidence_of) -> None:
    for minutes in (-10, 10):
        assert verifier.verify(evidence_of(Tee.SGX), NOW + timedelta(minutes=minutes))


class RemembersOnlyTimes(NonceBook):
    """The weakened book: a nonce is good until its time is over, however often it was used."""

    def redeem(self, nonce: Nonce, now: datetime) -> None:
        if now >= self._expiry[nonce]:
            raise NonceError("the nonce has expired")


def turned_back(book: NonceBook) -> None:
    """Use a nonce, let it expire, and use it again after the verifier's clock was set back (NTP is the host's)."""
    nonce = book.issue(NOW)
    book.redeem(nonce, NOW)
    with pytest.raises(NonceError):
        book.redeem(nonce, NOW + timedelta(minutes=2))
    book.redeem(nonce, NOW + timedelta(seconds=1))


def test_clock_that_is_set_back_revives_no_nonce() -> None:
    with pytest.raises(NonceError, match="used before"):
        turned_back(NonceBook(timedelta(seconds=60)))
    turned_back(RemembersOnlyTimes(timedelta(seconds=60)))


def test_expired_nonce_is_gone_even_if_the_clock_is_set_back() -> None:
    book = NonceBook(timedelta(seconds=60))
    nonce = book.issue(NOW)
    with pytest.raises(NonceError, match="expired"):
        book.redeem(nonce, NOW + timedelta(seconds=61))
    with pytest.raises(NonceError, match="used before"):
        book.redeem(nonce, NOW)
