"""Collateral that keeps itself current: a store that processes share, filled from the vendors, and never with anything unsigned.

A set is fetched when there is none or it goes stale soon; it is kept only if its vendor signed it and it is not older than the one before.
While a service cannot be reached, the kept set is used as long as it is valid.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from cryptography import x509

from confide.attest import snp
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral_check import check_current, check_signers
from confide.attest.collateral_sources import AnyCollateral, CollateralStore, read_collateral
from confide.attest.tpm import TpmCollateral
from confide.errors import AttestationError, CollateralError
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confide.attest.roots import TrustRoots
    from confide.canonical import Json

BUNDLE_FORMAT: Final = "confide-collateral-v1"
REFRESH_BEFORE: Final = timedelta(days=3)
"""How long before a set goes stale a new one is fetched: vendors issue new ones weeks before."""
RETRY_AFTER: Final = timedelta(minutes=5)
"""How long a service that failed is left alone while the kept set is still valid."""
_log = logging.getLogger(__name__)


class Source(Protocol):
    """One vendor's service."""

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """A fresh set.  Raises ``CollateralError``."""
        ...


class CollateralService:
    """A source for verifiers: the store, and the vendors' services behind it.  Safe to use from several threads and processes."""

    def __init__(
        self, store: CollateralStore, roots: TrustRoots, *, intel: Source, amd: Source, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._store = store
        self._roots = roots
        self._intel = intel
        self._amd = amd
        self._clock = clock or _utc_now
        self._failed: dict[tuple[str, str, Tee], datetime] = {}

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """The set for a platform, current as far as it is to be had.

        Raises:
            CollateralError: there is none, and none can be fetched.
        """
        kept = self._kept(platform, ca, tee)
        if kept is not None and self._is_good(kept, (platform, ca, tee)):
            return kept
        try:
            with self._store.locked(platform, ca, tee):
                kept = self._kept(platform, ca, tee)  # another process may have been first
                if kept is not None and self._is_good(kept, (platform, ca, tee)):
                    return kept
                return self._fetch(platform, ca, tee)
        except AttestationError as error:  # nobody answers, the answer is wrong, or the disk is full
            if kept is None or self._clock() >= kept.epoch.stale_from:
                raise
            self._failed[platform, ca, tee] = self._clock()
            _log.warning("collateral of %s is not renewed: %s", platform, error.message)
            return kept

    def _kept(self, platform: str, ca: str, tee: Tee) -> AnyCollateral | None:
        try:
            return self._store.get(platform, ca, tee)
        except CollateralError:
            return None

    def _is_good(self, kept: AnyCollateral, name: tuple[str, str, Tee]) -> bool:
        now, failed = self._clock(), self._failed.get(name)
        if now >= kept.epoch.stale_from:
            return False
        return now < kept.epoch.stale_from - REFRESH_BEFORE or (failed is not None and now < failed + RETRY_AFTER)

    def _fetch(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        found = (self._amd if tee is Tee.SNP else self._intel).get(platform, ca, tee)
        wanted = (platform if tee is Tee.SNP else platform.lower(), ca, tee)
        if isinstance(found, TpmCollateral):
            raise CollateralError("no service has collateral for TPMs")
        if found.platform != wanted:
            raise CollateralError("a collateral service answered for another platform", expected=platform[:40], got=found.platform[0])
        check_signed(found, self._roots)
        check_current(found, self._clock())
        self._store.put_within_lock(found)
        return found


def _utc_now() -> datetime:
    return datetime.now(UTC)


def check_signed(collateral: AnyCollateral, roots: TrustRoots) -> None:
    """Check that a set is signed by whom it must be, under the vendor's root.  Not that it is current.

    Raises:
        CollateralError: it is not.
    """
    try:
        if isinstance(collateral, TpmCollateral):
            raise CollateralError("no vendor signs collateral for TPMs")
        if isinstance(collateral, AmdCollateral):
            snp.check_issuers(collateral, roots.amd)
        else:
            check_signers(collateral, x509.load_der_x509_certificate(roots.intel))
    except CollateralError:
        raise
    except AttestationError as cause:
        raise CollateralError(cause.message, hint=cause.hint, **cause.facts) from cause


def bundle(sets: Iterable[AnyCollateral]) -> Json:
    """The JSON form of several sets, for machines without a network."""
    return {"format": BUNDLE_FORMAT, "sets": [one.to_json() for one in sets]}


def read_bundle(data: Json) -> list[AnyCollateral]:
    """The inverse of :func:`bundle`.

    Raises:
        CollateralError: it is no bundle.
    """
    match data:
        case {"format": str(form), "sets": list(sets)} if form == BUNDLE_FORMAT and len(data) == 2:
            return [read_collateral(one) for one in sets]
    raise CollateralError("not a bundle of collateral")


def import_bundle(store: CollateralStore, data: Json, roots: TrustRoots) -> list[AnyCollateral]:
    """Keep every set of a bundle that is signed by its vendor; all of them, or none if one is not.

    Sets that are older than the kept ones are left out.  Returns what was kept.

    Raises:
        CollateralError: it is no bundle, or a set in it is not signed by whom it must be.
    """
    sets, kept = read_bundle(data), []
    for one in sets:
        check_signed(one, roots)
    for one in sets:
        try:
            store.put(one)
        except CollateralError as older:
            _log.warning("collateral of %s is left out: %s", one.platform[0], older.message)
        else:
            kept.append(one)
    return kept
