"""``confide attest measure``: what nodes will prove, computed from a build; and what this machine's simulated nodes prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_facts, say
from confide.cli.policies import write_policy
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.attest.launch.values import TdxValues

_MAX_ENCLAVE_FILE_BYTES = 1 << 29
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("measure", invoke_without_command=True)
@click.option("--simulate", is_flag=True, help="Measure this installation, as its simulated nodes do.")
@click.option("--policy-out", type=click.Path(path_type=Path, dir_okay=False),
              help="With --simulate: also write a policy that accepts exactly these nodes.")  # fmt: skip
@answers
@click.pass_context
def command(ctx: click.Context, context: Context, policy_out: Path | None, *, simulate: bool) -> None:
    """Print reference values, from a build or of simulated nodes.

    With --simulate: what simulated nodes of this installation measure.  That covers interpreter, standard library, installed packages and
    Confide itself: one changed line changes it.
    """
    if ctx.invoked_subcommand is not None:
        if simulate or policy_out is not None:
            raise UsageError("--simulate and --policy-out are for simulated nodes, which have no build")
        return
    if not simulate:
        raise UsageError("say what to measure", hint="`confide attest measure sgx|tdx|snp ...`, or --simulate for simulated nodes")
    _simulated(context, policy_out)


def _simulated(context: Context, policy_out: Path | None) -> None:
    from confide.attest.policy import Policy
    from confide.jobs.local.simulation import SimulatedTee

    values = SimulatedTee.at(context.settings.simulation_dir).reference_values()
    if policy_out is not None:
        write_policy(policy_out, Policy.from_json({"name": "simulated", "measurements": values, "allow": ["simulated"]}))

    def text() -> None:
        print_facts({tee: ", ".join(digests) for tee, digests in values.items()})
        if policy_out is not None:
            say(f"policy written: {policy_out}", err=True)

    context.answer({"simulated": True, "measurements": values}, text)


@command.command("snp")
@click.option("--firmware", type=_FILE, required=True, help="The OVMF image, built for SEV-SNP.")
@click.option("--vcpus", type=int, required=True, help="How many processors the guest gets.")
@click.option("--vcpu-type", required=True, metavar="MODEL", help="QEMU's name of the processor model: EPYC-Milan, EPYC-Genoa, ...")
@click.option("--kernel", type=_FILE, help="The kernel that the host hands to the firmware, if it does.")
@click.option("--initrd", type=_FILE, help="Its initial file system.")
@click.option("--append", metavar="TEXT", help="Its command line.")
@click.option("--features", default="0x1", show_default=True, metavar="NUMBER", help="SEV_FEATURES of the guest.")
@click.option("--host", type=click.Choice(["qemu", "ec2", "gce"]), default="qemu", show_default=True, help="Whose software starts it.")
@answers
def snp(
    context: Context, firmware: Path, vcpus: int, vcpu_type: str, kernel: Path | None, initrd: Path | None, append: str | None,
    features: str, host: str,
) -> None:  # fmt: skip
    """Compute the launch digest of an AMD SEV-SNP guest."""
    from confide.attest.launch.snp import Host, Launch, launch_digest

    launch = Launch(firmware, vcpus, vcpu_type, kernel, initrd, append, _number(features), Host(host))
    context.answer(launch_digest(launch).to_json())


@command.command("tdx")
@click.option("--firmware", type=_FILE, help="The OVMF or TDVF image, built for TDX: gives MRTD.")
@click.option("--page-order", type=click.Choice(["page", "section"]), default="page", show_default=True,
              help="The host measures each page as it adds it (Linux since 6.16), or each section after it was added.")  # fmt: skip
@click.option("--event-log", type=_FILE, help="A CC event log (CCEL) of a boot that is trusted: gives RTMR0 to RTMR3.")
@answers
def tdx(context: Context, firmware: Path | None, page_order: str, event_log: Path | None) -> None:
    """Compute MRTD from firmware, RTMRs from an event log.

    An event log is nobody's promise: take it from a boot that you trust, or compare its RTMRs with those of a verified quote.
    """
    if firmware is None and event_log is None:
        raise UsageError("there is nothing to measure", hint="--firmware gives MRTD, --event-log gives the RTMRs")
    context.answer(_tdx_values(firmware, page_order, event_log).to_json())


def _tdx_values(image: Path | None, page_order: str, event_log: Path | None) -> TdxValues:
    from confide.attest.event_log import MAX_LOG_BYTES, OF_TD, EventLog
    from confide.attest.launch.files import read_capped
    from confide.attest.launch.firmware import MAX_FIRMWARE_BYTES, Firmware
    from confide.attest.launch.tdx import PageOrder, mrtd
    from confide.attest.launch.values import TdxValues

    measured = mrtd(Firmware.parse(read_capped(image, MAX_FIRMWARE_BYTES)), PageOrder(page_order)) if image else None
    return TdxValues(measured, EventLog.parse(read_capped(event_log, MAX_LOG_BYTES), OF_TD).rtmrs() if event_log else ())


@command.command("sgx")
@click.argument("sigstruct", type=_FILE, required=False)
@click.option("--manifest", type=_FILE, help="Gramine: the enclave's .manifest.sgx.")
@click.option("--libpal", type=_FILE, help="Gramine: its libpal.so for SGX.")
@click.option("--files", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="FOLDER",
              help="Gramine: also compare the manifest's trusted files with those below FOLDER.")  # fmt: skip
@answers
def sgx(context: Context, sigstruct: Path | None, manifest: Path | None, libpal: Path | None, files: Path | None) -> None:
    """Print what an SGX enclave will prove.

    It is read from the enclave's signature, computed from what Gramine loads, or both.

    SIGSTRUCT is the enclave's signature (Gramine: APPLICATION.sig), or a signed enclave with one in it (Intel's SDK); it is verified.
    With --manifest and --libpal the measurement is computed from the files; given both, they have to agree.
    """
    from confide.attest.launch.files import read_capped
    from confide.attest.launch.gramine import from_files
    from confide.attest.launch.sigstruct import Sigstruct

    if (manifest is None) != (libpal is None):
        raise UsageError("--manifest and --libpal are given together: both are loaded into the enclave")
    if sigstruct is None and manifest is None:
        raise UsageError("there is nothing to measure", hint="name the SIGSTRUCT, or --manifest and --libpal")
    if files is not None and manifest is None:
        raise UsageError("--files compares what a manifest lists", hint="name --manifest and --libpal too")
    built = from_files(manifest, libpal, files) if manifest is not None and libpal is not None else None
    if sigstruct is None:
        if built is not None:
            context.answer(built.to_json())
        return
    signed = Sigstruct.find(read_capped(sigstruct, _MAX_ENCLAVE_FILE_BYTES))
    values = signed.verified()
    if built is not None:
        values.require_same(built)

    def text() -> None:
        print_facts({**values.to_json(), "debug": signed.debug, "attributes": signed.attributes.hex()})
        say("verified: the signature" + (", and the measurement of the files" if built is not None else ""), err=True)

    context.answer(values.to_json(), text)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as cause:
        raise UsageError(f"{text!r} is no number", hint="decimal, or hexadecimal behind 0x") from cause
