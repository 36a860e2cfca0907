"""What commands about one piece of evidence share: their options, its verification, and how checks are shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.output import short
from confide.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confide.attest.collateral_sources import AnyCollateral, CollateralSource
    from confide.attest.evidence import Evidence
    from confide.attest.policy import Check
    from confide.attest.roots import TrustRoots
    from confide.attest.verify import VerifiedEvidence
    from confide.canonical import Json
    from confide.cli.output import Context

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@dataclass(frozen=True)
class Judging:
    """How evidence is to be verified: the values of :func:`judging_options`."""

    sets: tuple[Path, ...]
    endorsement: Path | None
    at: str | None
    offline: bool

    @property
    def now(self) -> datetime:
        """As of when."""
        return time_of(self.at)


def judging_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how evidence is verified; it gets them as keyword argument ``judging``."""

    def command(*args: Any, sets: tuple[Path, ...], endorsement: Path | None, at: str | None, offline: bool, **more: Any) -> None:
        function(*args, judging=Judging(sets, endorsement, at, offline), **more)

    options = (
        click.option("--collateral", "sets", type=_FILE, multiple=True,
                     help="What the vendor signed about the platform: a set, or its parts as several files [default: kept or fetched]."),
        click.option("--endorsement", type=_FILE,
                     help="Certificate of the key that signed an SEV-SNP report (VCEK or VLEK), the PCK chain of a quote without one, or "
                          "the chain of a TPM's key [default: fetched, but for a VLEK and a TPM]."),
        click.option("--at", "at", metavar="TIME", help="Judge as of this time, ISO 8601, by kept collateral [default: now]."),
        click.option("--offline", is_flag=True, help="Fetch nothing."),
    )  # fmt: skip
    command.__doc__, command.__name__ = function.__doc__, function.__name__
    command.__dict__.update(function.__dict__)
    for option in reversed(options):
        command = option(command)
    return command


def load(file: Path, judging: Judging) -> Evidence:
    """The evidence in ``file``, with the endorsement that was given.

    Raises:
        ParseError: it holds none.
    """
    from confide.attest.evidence_files import load_evidence, read_file

    return load_evidence(file, read_file(judging.endorsement) if judging.endorsement else b"")


def judge(context: Context, file: Path, judging: Judging, now: datetime) -> tuple[VerifiedEvidence, list[str]]:
    """Verify the evidence in ``file`` as of ``now``; with the names of the verifiers that agree on it.

    Raises:
        AttestationError: it is not genuine, or collateral for it is not to be had.
    """
    from confide.attest.collateral_files import load_sets
    from confide.attest.evidence_files import with_given_chain
    from confide.attest.verify import Verifier
    from confide.cli.collateral import endorsements_of
    from confide.jobs.receipt import default_roots

    roots, evidence, sets = default_roots(context.settings), load(file, judging), load_sets(judging.sets)
    asked = None if judging.offline or sets else endorsements_of(context.settings)
    if sets and not evidence.chain:
        evidence = with_given_chain(evidence, sets)
    kept_only = judging.offline or judging.at is not None
    verified = Verifier(roots, collateral_for(context, sets, kept_only=kept_only), asked).verify(evidence, now)
    return verified, _agree(verified, roots)


def collateral_for(context: Context, sets: list[AnyCollateral], *, kept_only: bool) -> CollateralSource:
    """Where collateral comes from: the given sets alone, or what is kept, or else the vendors."""
    from confide.attest.collateral_sources import FixedCollateral
    from confide.cli.collateral import source_of, store_of

    if sets:
        return FixedCollateral(*sets)
    return store_of(context.settings) if kept_only else source_of(context.settings)


def _agree(verified: VerifiedEvidence, roots: TrustRoots) -> list[str]:
    """Which verifiers say so."""
    from confide.attest.dcap import require_agreement
    from confide.ids import Tee

    if verified.claims.tee in {Tee.SNP, Tee.TPM}:
        return ["confide"]
    require_agreement(verified, roots.simulated if verified.claims.simulated and roots.simulated else roots.intel)
    return ["confide", "dcap-qvl"]


def time_of(text: str | None) -> datetime:
    """The time that ``text`` says, in UTC if it names no zone; now for None.

    Raises:
        UsageError: it is no time.
    """
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise UsageError("not a time", got=text[:40], hint="write 2026-01-31 or 2026-01-31T12:00:00Z") from cause


def check_rows(checks: Sequence[Check]) -> list[tuple[str, str, str, str]]:
    """The rows of a table of checks, for people."""
    return [("yes" if c.ok else "NO", c.name, short(c.got, 48), short(c.expected, 48)) for c in checks]


def checks_json(checks: Sequence[Check]) -> list[Json]:
    """Checks as JSON."""
    return [{"name": check.name, "expected": check.expected, "got": check.got, "ok": check.ok} for check in checks]
