"""``confide attest collateral``: what the vendors signed about platforms, kept here and taken to machines without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_table, say, short
from confide.errors import CollateralError, UsageError

if TYPE_CHECKING:
    from confide.attest.collateral_sources import AnyCollateral, CollateralSource, CollateralStore
    from confide.attest.endorsements import Endorsements
    from confide.attest.vendor_services import AmdService, IntelService
    from confide.canonical import Json
    from confide.config import Settings


_MAX_BUNDLE_BYTES = 64 * 1024 * 1024
"""Cap on a bundle: room for a thousand sets."""


@click.group("collateral")
def command() -> None:
    """Show, export and import collateral: what the vendors signed about platforms.

    It is fetched when evidence is verified and there is none, or it goes stale soon.
    """


def store_of(settings: Settings) -> CollateralStore:
    """Where collateral is kept."""
    from confide.attest.collateral_sources import CollateralStore

    return CollateralStore(settings.collateral_dir)


def services_of(settings: Settings) -> tuple[IntelService, AmdService]:
    """The vendors' services, or those that the settings name instead."""
    from confide.attest.vendor_services import open_services

    return open_services(settings.intel_service, settings.amd_service, settings.service_ca_file)


def endorsements_of(settings: Settings) -> Endorsements:
    """Where certificates of keys are had for evidence that came without them."""
    from confide.attest.endorsements import Endorsements

    return Endorsements(*services_of(settings))


def source_of(settings: Settings) -> CollateralSource:
    """The kept collateral, with the vendors' services behind it."""
    from confide.attest.collateral_service import CollateralService
    from confide.attest.roots import TrustRoots

    intel, amd = services_of(settings)
    return CollateralService(store_of(settings), TrustRoots(), intel=intel, amd=amd)


def _row(one: AnyCollateral) -> Json:
    from confide.attest.tpm import TpmCollateral

    platform, ca, tee = one.platform
    if isinstance(one, TpmCollateral):
        raise CollateralError("collateral of a TPM is kept with its receipt only")
    facts = {"issued": one.issued.isoformat(), "epoch": one.epoch.to_json(), "digest": one.digest}
    return {"tee": tee.value, "platform": platform, "ca": ca, **facts}


@command.command("ls")
@answers
def list_(context: Context) -> None:
    """List the kept sets."""
    rows = [_row(one) for one in store_of(context.settings).sets()]

    def text() -> None:
        columns = ("tee", "platform", "key or CA", "issued", "good until", "digest")
        lines = [
            (row["tee"], row["platform"], row["ca"], row["issued"][:10], row["epoch"]["earliest_next_update"], short(row["digest"]))
            for row in rows
        ]
        print_table(columns, lines, empty="no collateral is kept here")

    context.answer({"sets": rows}, text)


@command.command("export")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@answers
def export(context: Context, target: Path) -> None:
    """Write all kept sets to TARGET, for a machine without a network."""
    from confide.attest.collateral_service import bundle

    sets = store_of(context.settings).sets()
    if not sets:
        raise UsageError("no collateral is kept here", hint="`confide attest verify FILE` fetches what a piece of evidence needs")
    try:
        with target.open("x", encoding="utf-8") as file:
            json.dump(bundle(sets), file, indent=1)
    except OSError as cause:
        raise UsageError(f"cannot write {target}: {cause.strerror}", path=str(target)) from cause
    context.answer({"file": str(target), "sets": len(sets)})


def _read_bundle(path: Path) -> bytes:
    from confide.regular_file import read_regular

    try:
        return read_regular(path, _MAX_BUNDLE_BYTES)
    except OSError as cause:
        raise UsageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


@command.command("import")
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@answers
def import_(context: Context, source: Path) -> None:
    """Keep the sets in SOURCE that their vendors signed and that are not older than the kept ones.  All of SOURCE is checked first."""
    from confide.attest.collateral_service import import_bundle
    from confide.attest.roots import TrustRoots
    from confide.canonical import parse_object

    kept = import_bundle(store_of(context.settings), parse_object(_read_bundle(source)), TrustRoots())
    rows = [_row(one) for one in kept]

    def text() -> None:
        for row in rows:
            say(f"kept: {row['tee']} {row['platform']} {row['ca']}, good until {row['epoch']['earliest_next_update']}")
        if not rows:
            say("nothing was newer than what is kept")

    context.answer({"sets": rows}, text)
