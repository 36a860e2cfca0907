"""The manifest of a node: every file of the image, five that the host may choose, and nothing that the lint tells off."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from support.gramine import libpal

from confide.attest.launch.elf import SharedObject
from confide.attest.launch.gramine import Manifest, measure
from confide.attest.launch.manifest_lint import lint
from confide.errors import ImageError
from confide.jobs.images.layout import ARGUMENTS, UID
from confide.jobs.images.node_manifest import INPUTS, Enclave, render
from confide.jobs.images.tree import Entry

FILES = {
    path: f"{number:064x}"
    for number, path in enumerate((
        "/etc/passwd", "/opt/confide/lib/python3.11/site-packages/confide/node.py", "/opt/gramine/libsysdb.so",
        "/opt/gramine/runtime/glibc/libc.so.6", "/opt/gramine/sgx/libpal.so", "/opt/gramine/sgx/loader", "/opt/java/lib/modules",
        "/opt/python/bin/python3.11", "/opt/python/lib/python3.11/os.py", "/usr/lib/x86_64-linux-gnu/libc.so.6",
    ))
}  # fmt: skip
PROGRAM = Entry("/opt/confide/bin/python", 0o777, link="../../python/bin/python3.11")
OTHERS = (PROGRAM, Entry("/tmp", 0o1777), Entry("/lib", 0o777, link="usr/lib"))
ENTRIES = (*(Entry(path, 0o644, digest) for path, digest in FILES.items()), *OTHERS)
SMALL = Enclave("4M", max_threads=4)


def test_every_file_is_trusted_by_its_digest_under_each_of_its_names() -> None:
    listed = dict(Manifest.parse(render(ENTRIES, Enclave()).encode()).trusted_files)
    assert listed == {**FILES, PROGRAM.path: FILES["/opt/python/bin/python3.11"]}


def test_host_chooses_five_files_and_nothing_else() -> None:
    text = render(ENTRIES, Enclave())
    findings = lint(text.encode())
    assert [(finding.severity, finding.code, finding.subject) for finding in findings] == [
        ("warning", "allowed-file", f"file:{path}") for path in sorted(INPUTS)
    ]
    assert len(INPUTS) == 5
    assert all(f"# {reason}" in text for reason in INPUTS.values())


def test_what_runs_as_whom_and_with_what_is_fixed() -> None:
    manifest = tomllib.loads(render(ENTRIES, Enclave("16G", 64, edmm=True, isv_prod_id=3, isv_svn=7)))
    assert manifest["loader"]["argv"] == ["/opt/confide/bin/python", "-I", "-B", "-m", "confide.jobs.kubernetes.node"] == list(ARGUMENTS)
    assert (manifest["loader"]["uid"], manifest["loader"]["gid"]) == (UID, UID) == (10001, 10001)
    assert all(isinstance(value, str) for value in manifest["loader"]["env"].values())
    assert manifest["loader"]["env"]["LD_LIBRARY_PATH"] == "/lib:/usr/lib/x86_64-linux-gnu"
    sgx = manifest["sgx"]
    assert (sgx["debug"], sgx["file_check_policy"], sgx["remote_attestation"]) == (False, "strict", "dcap")
    assert (sgx["enclave_size"], sgx["max_threads"], sgx["edmm_enable"], sgx["isvprodid"], sgx["isvsvn"]) == ("16G", 64, True, 3, 7)
    assert "insecure__" not in str(manifest)
    written = {mount["path"]: mount for mount in manifest["fs"]["mounts"] if mount.get("type", "chroot") != "chroot"}
    assert list(written) == ["/dev/shm", "/tmp", "/var/confide"]
    assert {(mount["type"], mount["key_name"]) for mount in written.values()} == {("encrypted", "_sgx_mrenclave")}


def measured(entries: tuple[Entry, ...], enclave: Enclave = SMALL) -> bytes:
    return measure(Manifest.parse(render(entries, enclave).encode()), SharedObject.parse(libpal())).mr_enclave


def test_one_changed_file_of_any_kind_is_another_enclave() -> None:
    seen = {measured(ENTRIES)}
    for number, entry in enumerate(ENTRIES):
        if entry.is_file:
            seen.add(measured((*ENTRIES[:number], replace(entry, content="f" * 64), *ENTRIES[number + 1 :])))
    assert len(seen) == len(FILES) + 1
    assert measured((*ENTRIES, Entry("/opt/more.py", 0o644, "0" * 64))) not in seen
    assert measured(ENTRIES, replace(SMALL, isv_svn=1)) not in seen
    assert measured(ENTRIES) in seen


NEEDED = ("/opt/gramine/sgx/libpal.so", "/opt/gramine/libsysdb.so", "/opt/gramine/sgx/loader", "/opt/python/bin/python3.11")


@pytest.mark.parametrize("missing", NEEDED)
def test_image_without_gramine_or_interpreter_is_refused(missing: str) -> None:
    with pytest.raises(ImageError, match="the image has no"):
        render(tuple(entry for entry in ENTRIES if entry.path != missing), Enclave())


@pytest.mark.parametrize("path", ["/tmp/a.py", "/dev/shm/x", "/var/confide/a", "/etc/confide/node/spec.json", "/proc/x"])
def test_file_where_the_enclave_would_not_see_it_is_refused(path: str) -> None:
    with pytest.raises(ImageError, match="none of it"):
        render((*ENTRIES, Entry(path, 0o644, "0" * 64)), Enclave())


def test_names_are_written_so_that_they_read_the_same() -> None:
    odd = '/opt/a "b"\\c\x7f é.py'
    listed = dict(Manifest.parse(render((*ENTRIES, Entry(odd, 0o644, "a" * 64)), Enclave()).encode()).trusted_files)
    assert listed[odd] == "a" * 64
    with pytest.raises(ImageError, match="no text"):
        render((*ENTRIES, Entry("/opt/\udcff.py", 0o644, "a" * 64)), Enclave())
