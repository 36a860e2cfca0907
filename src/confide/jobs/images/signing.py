"""Signs an image's enclave by ``gramine-sgx-sign``, with a key that is no part of the image, and reads what was signed.

Gramine's own program signs, because the layout of an enclave is its own; what it says is verified as a processor would, and computed a
second time from the files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.attest.launch import gramine
from confide.attest.launch.files import read_capped
from confide.attest.launch.manifest_lint import lint
from confide.attest.launch.sigstruct import SIGSTRUCT_BYTES, Sigstruct
from confide.errors import ImageError
from confide.jobs.images.context import UNSIGNED, Context
from confide.jobs.images.layout import GRAMINE, MANIFEST, Shape
from confide.jobs.images.private_keys import refuse_private_keys

if TYPE_CHECKING:
    from confide.attest.launch.values import SgxValues

SIGNER: Final = "gramine-sgx-sign"
SIGNED: Final = (f"{MANIFEST}.manifest.sgx", f"{MANIFEST}.sig")
_DATE: Final = "0000-00-00"
"""Of the signature: Gramine's documentation names this one for builds that can be repeated."""
_SAID: Final = 2000


def sign(context: Context, key: Path, *, signer: str = SIGNER) -> SgxValues:
    """Sign the enclave of a context, and put the signed manifest and the signature into its root.

    Raises:
        ImageError: it has no enclave, is signed already or was changed; the key lies in it; or Gramine's program failed.
        EvidenceInvalidError: the signature does not verify.
        AppraisalError: what was signed is not what these files make.
    """
    if context.shape is not Shape.SGX:
        raise ImageError(f"an image of the shape {context.shape} has no enclave to sign")
    _refuse_key_inside(context, key)
    if context.tree.place(SIGNED[1]).exists():
        raise ImageError("the image is signed already", path=str(context.folder), hint="build it anew to sign it with another key")
    context.check()
    manifest = context.folder / UNSIGNED
    wrong = [finding for finding in lint(read_capped(manifest, gramine.MAX_MANIFEST_BYTES)) if finding.severity == "error"]
    if wrong:
        first = wrong[0]
        raise ImageError(f"the manifest lets the host in: {first.message}", check=first.code, got=first.subject, hint=first.hint)
    with tempfile.TemporaryDirectory(prefix="confide-sign-") as scratch:
        expanded, signature = Path(scratch) / "node.manifest.sgx", Path(scratch) / "node.sig"
        _run(signer, context, key, expanded, signature)
        values = _values(context, expanded, signature)
        refuse_private_keys((expanded, signature))
        tree = context.tree
        for source, path in zip((expanded, signature), SIGNED, strict=True):
            tree.copy(source, path)
        tree.seal()
    return values


def signed_values(context: Context) -> SgxValues | None:
    """What nodes of a signed context will prove; nothing if it was not signed yet.

    Raises:
        ImageError: its files are not those that were built.
        EvidenceInvalidError: the signature does not verify.
        AppraisalError: what was signed is not what these files make.
    """
    expanded, signature = (context.tree.place(path) for path in SIGNED)
    if not signature.is_file():
        context.check()
        return None
    context.check(besides=SIGNED)
    return _values(context, expanded, signature)


def _values(context: Context, expanded: Path, signature: Path) -> SgxValues:
    libpal = context.tree.place(f"{GRAMINE}/sgx/libpal.so")
    values = Sigstruct.parse(read_capped(signature, SIGSTRUCT_BYTES)).verified()
    values.require_same(gramine.from_files(expanded, libpal, context.tree.root))
    listed = gramine.Manifest.parse(read_capped(expanded, gramine.MAX_MANIFEST_BYTES)).trusted_files
    told = gramine.Manifest.parse(read_capped(context.folder / UNSIGNED, gramine.MAX_MANIFEST_BYTES)).trusted_files
    if not set(told) <= set(listed):
        raise ImageError("the signed manifest does not list all files of the image", hint="sign it anew")
    return values


def _refuse_key_inside(context: Context, key: Path) -> None:
    if not key.is_file():
        raise ImageError(f"there is no key at {key}", path=str(key), hint="`gramine-sgx-gen-private-key` makes one")
    if key.resolve().is_relative_to(context.folder.resolve()):
        hint = "keep it elsewhere: whoever has it signs other enclaves"
        raise ImageError("the signing key lies in the image's own folder", path=str(key), hint=hint)


def _run(signer: str, context: Context, key: Path, expanded: Path, signature: Path) -> None:
    program = shutil.which(signer)
    if program is None:
        hint = "install Gramine (1.6 or newer), or name its program with --signer"
        raise ImageError(f"there is no {signer}", hint=hint)
    tree = context.tree
    command = [program, "--manifest", str(context.folder / UNSIGNED), "--output", str(expanded), "--sigfile", str(signature)]
    command += ["--key", str(key.resolve()), "--libpal", str(tree.place(f"{GRAMINE}/sgx/libpal.so")), "--chroot", str(tree.root)]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    done = subprocess.run([*command, "--date", _DATE], capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0 or not expanded.is_file() or not signature.is_file():
        raise ImageError(f"{signer} did not sign", status=done.returncode, said=(done.stderr or done.stdout)[-_SAID:])
