"""``confide image``: build, sign and check images of nodes, and say what their nodes will prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.output import Context, Story, answers, print_facts, say
from confide.cli.policies import say_lines, write_policy
from confide.errors import ImageError, UsageError

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.canonical import Json
    from confide.jobs.images.context import Context as ImageContext

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
_POLICY_OUT = click.option("--policy-out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the policy into a new file.")
_VM_HINT = "a VM's measurement covers firmware, kernel and what these start: `confide attest measure tdx|snp`; pin the image by its digest"


@click.group("image")
def command() -> None:
    """Build, sign and check images of nodes."""


@command.command("build")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--shape", type=click.Choice(["sgx", "vm", "simulated"]), default="simulated", show_default=True,
              help="In what the nodes run: an enclave, a confidential VM, or a test cluster that protects nothing.")  # fmt: skip
@click.option("--engine", "engines", type=click.Choice(["spark", "polars", "duckdb"]), multiple=True, default=("spark",), show_default=True,
              help="What computes; can be given more than once.")  # fmt: skip
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="An extra of Confide's that nodes need, such as s3.")
@click.option("--wheel", "wheels", type=_FILE, multiple=True, help="A package of your own, or Confide's, as a wheel; taken as it is.")
@click.option("--lock", type=_FILE, help="Packages by version and hash; taken whole [default: what is needed of the source tree's].")
@click.option("--packages", "found_in", type=_FOLDER, help="Take packages from this folder, and ask no index.")
@click.option("--gramine", type=_FOLDER, help="Shape sgx: the folder of an installed Gramine.")
@click.option("--enclave-size", default="8G", show_default=True, metavar="SIZE", help="Shape sgx: of each process.")
@click.option("--max-threads", type=click.IntRange(4, 4096), default=256, show_default=True, help="Shape sgx: of each process.")
@click.option("--edmm", is_flag=True, help="Shape sgx: memory is added when it is needed (SGX2).")
@click.option("--isv-prod-id", type=click.IntRange(0, 65535), default=0, show_default=True, help="Shape sgx: the product's number.")
@click.option("--isv-svn", type=click.IntRange(0, 65535), default=0, show_default=True, help="Shape sgx: its security version.")
@_POLICY_OUT
@answers
def build(context: Context, out: Path, shape: str, policy_out: Path | None, **asked: Any) -> None:
    """Write the context of a container: every file of a node's image, and a recipe that needs no registry.

    The same machine, lock and options give the same files, byte by byte.  The interpreter is the one that runs this command.
    """
    from confide.jobs.images.context import Request
    from confide.jobs.images.context import build as build_context
    from confide.jobs.images.layout import Shape
    from confide.jobs.images.node_manifest import Enclave

    names = ("max_threads", "edmm", "isv_prod_id", "isv_svn")
    enclave = Enclave(asked.pop("enclave_size"), **{name: asked.pop(name) for name in names})
    if policy_out is not None and shape != "simulated":
        raise UsageError("--policy-out is for simulated nodes, and after `confide image sign`", hint=_VM_HINT if shape == "vm" else None)
    engines, extras, wheels = (tuple(dict.fromkeys(asked.pop(name))) for name in ("engines", "extras", "wheels"))
    story = Story()
    with story.working(f"building {out}"):
        built = build_context(out, Request(Shape(shape), engines, extras, wheels, enclave=enclave, **asked), story.begin)
    story.ok(f"{built.facts['files']} files in {out}")
    _tell(context, built, _reference(built), policy_out)


@command.command("sign")
@click.argument("folder", type=_FOLDER)
@click.option("--key", type=_FILE, required=True, help="The enclave's signing key (RSA, 3072 bits, exponent 3).  It stays where it is.")
@click.option("--signer", default="gramine-sgx-sign", show_default=True, metavar="PROGRAM", help="Gramine's own signing program.")
@_POLICY_OUT
@answers
def sign(context: Context, folder: Path, key: Path, signer: str, policy_out: Path | None) -> None:
    """Sign the enclave of an image of the shape sgx, and print what its nodes will prove.

    The key is given to Gramine's program alone.  One that lies in the image's folder is refused.
    """
    from confide.jobs.images.context import Context as Built
    from confide.jobs.images.signing import sign as sign_enclave

    built = Built.load(folder)
    with Story().working("signing"):
        values = sign_enclave(built, key, signer=signer)
    _tell(context, built, values.to_json(), policy_out)


@command.command("show")
@click.argument("folder", type=_FOLDER)
@_POLICY_OUT
@answers
def show(context: Context, folder: Path, policy_out: Path | None) -> None:
    """Check that an image's files are those that were built, and print what its nodes will prove."""
    from confide.jobs.images.context import Context as Built

    built = Built.load(folder)
    _tell(context, built, _reference(built), policy_out)


@command.command("lint")
@click.argument("manifest", type=_FILE)
@answers
def lint(context: Context, manifest: Path) -> None:
    """Say how a Gramine manifest lets the host in.  The exit status is 2 if no policy should name its enclave."""
    from confide.attest.launch.files import read_capped
    from confide.attest.launch.gramine import MAX_MANIFEST_BYTES
    from confide.attest.launch.manifest_lint import lint as findings_of

    found = findings_of(read_capped(manifest, MAX_MANIFEST_BYTES))
    errors = sum(finding.severity == "error" for finding in found)

    def text() -> None:
        for finding in found:
            say(f"{finding.severity}[{finding.code}]: {finding.message} ({finding.subject})")
            say(f"  hint: {finding.hint}")
        say(f"{manifest.name}: {f'{errors} errors' if errors else 'the host stays out'}")

    context.answer({"manifest": str(manifest), "ok": not errors, "findings": [finding.to_json() for finding in found]}, text)
    if errors:
        raise click.exceptions.Exit(ImageError.exit_status)


def _reference(built: ImageContext) -> Json | None:
    """What nodes of this image will prove, in the form of reference values; nothing if that is not known yet, or not from the image."""
    from confide.jobs.images.layout import Shape
    from confide.jobs.images.signing import signed_values

    if built.shape is Shape.SGX:
        values = signed_values(built)
        return values.to_json() if values is not None else None
    built.check()
    return {"measurements": built.facts["measurements"]} if built.shape is Shape.SIMULATED else None


def _policy(built: ImageContext, reference: Json) -> Policy:
    from confide.attest.policy import Policy
    from confide.attest.policy_draft import of_reference

    if "measurements" in reference:
        return Policy.from_json({"name": "simulated-image", **reference, "allow": ["simulated"]})
    return Policy.from_json({"name": f"image-{built.facts['tree'][:12]}", **of_reference(reference)})


def _tell(context: Context, built: ImageContext, reference: Json | None, policy_out: Path | None) -> None:
    from confide.attest.policy_draft import to_toml
    from confide.jobs.images.layout import Shape

    facts = {name: built.facts[name] for name in ("shape", "engines", "confide", "python", "tree", "files")}
    policy = _policy(built, reference) if reference is not None else None
    if policy_out is not None:
        if policy is None:
            raise UsageError("there is nothing to write into a policy yet", hint="sign the image first")
        write_policy(policy_out, policy)

    def text() -> None:
        print_facts({**facts, "packages": len(built.facts["packages"])})
        if policy is not None:
            say()
            say_lines(to_toml(policy))
        elif built.shape is Shape.SGX:
            say(f"not signed: `confide image sign {built.folder} --key KEY` says what its nodes will prove", err=True)
        else:
            say(f"note: {_VM_HINT}", err=True)

    measured = {"reference": reference, "policy": policy.to_json() if policy is not None else None}
    context.answer({**facts, **measured, "folder": str(built.folder), "packages": built.facts["packages"],
                    "not_linked": built.facts["not_linked"]}, text)  # fmt: skip
