"""The Gramine manifest of a node: what it measures is everything that the node runs.  Pure, but for what :class:`Tree` says.

Syntax: Gramine's published manifest documentation.  What is **not** measured comes in through :data:`INPUTS`, five files by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confide.errors import ImageError
from confide.jobs.images.layout import ARGUMENTS, ENVIRONMENT, GRAMINE, PROGRAM, SCRATCH, UID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confide.jobs.images.tree import Entry

_SPEC: Final = "/etc/confide/node"
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
INPUTS: Final = {
    f"{_SPEC}/spec.json": "which run's node this is; its job digest goes into the evidence, so that of another job is refused",
    f"{_SPEC}/workers.json": "the pods that a driver asks for; each one counts by its own evidence",
    f"{_ACCOUNT}/token": "how a driver asks for pods; whoever withholds or changes it stops the run",
    f"{_ACCOUNT}/ca.crt": "whom a driver asks for pods: a server that is not believed about anything else",
    f"{_ACCOUNT}/namespace": "where a driver asks for pods",
}
"""The files that the host may choose, and why a lie in each only stops a run."""
_LIBC: Final = f"{GRAMINE}/runtime/glibc"
_SCRATCH: Final = ("/dev/shm", "/tmp", SCRATCH)  # noqa: S108
_HIDDEN: Final = ("/dev", "/etc/confide", "/proc", "/run", "/sys", "/tmp", "/var")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Enclave:
    """What an enclave's owner chooses.  ``size``: of each process, and with ``edmm`` only the most that it may grow to."""

    size: str = "8G"
    max_threads: int = 256
    edmm: bool = False
    isv_prod_id: int = 0
    isv_svn: int = 0


def render(entries: tuple[Entry, ...], enclave: Enclave) -> str:
    """The manifest, with the digest of every file of the tree.

    Raises:
        ImageError: the tree lacks Gramine, or the node.
    """
    trusted = dict(_trusted(entries))
    for path in (PROGRAM, f"{GRAMINE}/libsysdb.so", f"{GRAMINE}/sgx/libpal.so", f"{GRAMINE}/sgx/loader"):
        if path not in trusted:
            hint = "name the folder of an installed Gramine: it has libsysdb.so, sgx/ and runtime/"
            raise ImageError(f"the image has no {path}", hint=hint)
    libraries = sorted({path.rpartition("/")[0] for path in trusted if path.endswith("/libc.so.6") and path.startswith("/usr/")})
    environment = {**ENVIRONMENT, "LD_LIBRARY_PATH": ":".join(("/lib", *libraries))}
    lines = [
        "# Written by `confide image build`.  Every byte of it is measured.",
        f"loader.entrypoint = {_text(f'file:{GRAMINE}/libsysdb.so')}",
        f"libos.entrypoint = {_text(PROGRAM)}",
        f"loader.argv = [{', '.join(map(_text, ARGUMENTS))}]",
        'loader.log_level = "error"',
        f"loader.uid = {UID}",
        f"loader.gid = {UID}",
        *(f"loader.env.{name} = {_text(value)}" for name, value in sorted(environment.items())),
        "sys.enable_extra_runtime_domain_names_conf = true",
        "sys.enable_sigterm_injection = true",
        'sys.stack.size = "8M"',
        'sys.brk.max_size = "64M"',
        'fs.root.uri = "file:/"',
        "fs.mounts = [",
        f"  {{ path = \"/lib\", uri = {_text(f'file:{_LIBC}')} }},",
        *(f"  {_encrypted(path)}," for path in _SCRATCH),
        "]",
        "sgx.debug = false",
        f"sgx.edmm_enable = {'true' if enclave.edmm else 'false'}",
        f"sgx.enclave_size = {_text(enclave.size)}",
        f"sgx.max_threads = {enclave.max_threads}",
        f"sgx.isvprodid = {enclave.isv_prod_id}",
        f"sgx.isvsvn = {enclave.isv_svn}",
        'sgx.remote_attestation = "dcap"',
        'sgx.file_check_policy = "strict"',
        "sgx.allowed_files = [",
        *(line for path, reason in INPUTS.items() for line in (f"  # {reason}", f"  {_text(f'file:{path}')},")),
        "]",
        "sgx.trusted_files = [",
        *(f"  {{ uri = {_text(f'file:{path}')}, sha256 = \"{digest}\" }}," for path, digest in trusted.items()),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _trusted(entries: tuple[Entry, ...]) -> Iterator[tuple[str, str]]:
    """Every file by each name that it has.  A link has no name of its own for Gramine, which follows it on the host."""
    files = {entry.path: entry.content for entry in entries if entry.is_file}
    for entry in entries:
        if entry.path.startswith(tuple(f"{folder}/" for folder in _HIDDEN)):
            if entry.is_file:
                raise ImageError("a file of the image lies where the enclave has none of it", path=entry.path)
        elif entry.is_file:
            yield entry.path, entry.content
        elif entry.link and (target := _target(entry)) in files:
            yield entry.path, files[target]


def _target(entry: Entry) -> str:
    parts = entry.path.split("/")[:-1]
    for part in entry.link.split("/"):
        parts = parts[:-1] if part == ".." else parts if part in {"", "."} else [*parts, part]
    return "/".join(parts)


def _encrypted(path: str) -> str:
    """A folder that a node's processes share and the host cannot read: a key of this enclave on this processor."""
    return f'{{ type = "encrypted", path = {_text(path)}, uri = {_text(f"file:{path}")}, key_name = "_sgx_mrenclave" }}'


def _text(value: str) -> str:
    """A TOML string.  Paths of the tree that are not text are not written."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ImageError("a file of the image has a name that is no text", path=ascii(value)) from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
