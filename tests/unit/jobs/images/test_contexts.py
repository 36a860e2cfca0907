"""Contexts: the same files each time, whole or not at all, without keys, and signed with one that stays outside."""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.sigstruct import signing_key
from support.small_images import Shelf
from support.wheels import make_wheel

from confide.attest.launch.manifest_lint import lint
from confide.attest.measure import measure
from confide.errors import AppraisalError, EvidenceInvalidError, ImageError, OutputExistsError, ParseError
from confide.jobs.images.context import Context, build, recipe
from confide.jobs.images.layout import ARGUMENTS, SIMULATED_ARGUMENTS, Shape, installed
from confide.jobs.images.signing import SIGNED, sign, signed_values
from confide.jobs.local.pod import ENTRY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KEY = signing_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
Built = Callable[[Shape], Context]


def test_two_builds_are_the_same_byte_by_byte(built: Built, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    first, second = built(Shape.SIMULATED), build(tmp_path / "again", shelf.request(), lambda _: None)
    for name in ("Containerfile", "image.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert first.tree.entries() == second.tree.entries()
    assert list(tmp_path.iterdir()) == [tmp_path / "again"], "nothing else is left"


def test_image_has_no_shell_no_installer_no_link_out_and_nothing_that_only_its_user_may_read(built: Built) -> None:
    entries = {entry.path: entry for entry in built(Shape.SIMULATED).tree.entries()}
    assert not [path for path in entries if re.search(r"/(ba|da|)sh$|/pip/|ensurepip|/busybox$|/ld\.so\.preload$", path)]
    assert not [path for path, entry in entries.items() if entry.link.startswith("/")]
    assert [path for path, entry in entries.items() if entry.mode & 0o022 and not entry.link] == ["/tmp", "/var/confide"]
    site = f"/opt/confide/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    assert {path for path in entries if path.startswith(f"{site}/confide/") and path.endswith(".pyc")}, "byte code"
    assert not any(str(Path.home()) in entry.link for entry in entries.values())


def test_recipe_copies_and_sets_who_runs_what_and_nothing_else() -> None:
    for shape in Shape:
        lines = [line for line in recipe(shape).splitlines() if line and not line.startswith("#")]
        assert [line.split()[0] for line in lines] == ["FROM", "COPY", "ENV", "USER", "WORKDIR", "STOPSIGNAL", "ENTRYPOINT"]
        assert lines[0] == "FROM scratch"
        assert "USER 10001:10001" in lines
    assert recipe(Shape.SIMULATED).endswith(f"ENTRYPOINT {json.dumps(list(SIMULATED_ARGUMENTS))}\n")
    assert recipe(Shape.VM).endswith(f"ENTRYPOINT {json.dumps(list(ARGUMENTS))}\n")
    assert SIMULATED_ARGUMENTS[1:] == ENTRY
    assert recipe(Shape.SGX).endswith('["/opt/gramine/sgx/loader", "/opt/gramine/sgx/libpal.so", "init", "/opt/confide/node"]\n')


def test_reference_values_are_those_of_the_tree_and_change_with_a_module(own_copy: Built) -> None:
    image = own_copy(Shape.SIMULATED)
    before = measure(installed(image.tree.root))
    assert image.facts["measurements"]["tdx"] == [before.digest]
    packages = "opt/confide/lib/*/site-packages"
    for pattern in (f"{packages}/confide/**/node.py", f"{packages}/polars/__init__.py", "opt/python/lib/*/os.py", "opt/python/bin/*"):
        path = next(image.tree.root.glob(pattern))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert measure(installed(image.tree.root)) != before, pattern
        with pytest.raises(ImageError, match="not those that were built") as refused:
            image.check()
        assert refused.value.facts["path"] == f"/{path.relative_to(image.tree.root)}"
        path.write_bytes(data)
    image.check()


@pytest.mark.parametrize("change", ["added", "removed", "rights"])
def test_file_that_was_added_removed_or_given_rights_is_found(own_copy: Built, change: str) -> None:
    image = own_copy(Shape.SIMULATED)
    path = image.tree.root / "opt" / "confide" / "pyvenv.cfg"
    if change == "added":
        path.with_name("sitecustomize.py").write_text("import evil")
    elif change == "removed":
        path.unlink()
    else:
        path.chmod(0o755)
    with pytest.raises(ImageError, match="not those that were built") as refused:
        image.check()
    assert "/opt/confide/" in str(refused.value.facts["path"])


def test_private_key_in_a_given_wheel_is_refused_and_nothing_is_left(shelf: Shelf, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "rules", files={"rules/settings.py": b"KEY = '''" + KEY + b"'''\n"})
    request = shelf.request()
    with pytest.raises(ImageError, match=r"private key.*rules/settings\.py"):
        build(tmp_path / "image", replace(request, wheels=(*request.wheels, wheel)), lambda _: None)
    assert list(tmp_path.iterdir()) == [wheel]


def test_private_key_in_gramines_folder_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    gramine = tmp_path / "gramine"
    shutil.copytree(shelf.gramine, gramine)
    (gramine / "runtime" / "enclave-key.pem").write_bytes(KEY)
    with pytest.raises(ImageError, match="private key"):
        build(tmp_path / "image", shelf.request(Shape.SGX, gramine=gramine), lambda _: None)


def test_build_that_is_stopped_leaves_nothing(shelf: Shelf, tmp_path: Path) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "image", shelf.request(), stop)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot write"):
        build(tmp_path / "file" / "image", shelf.request(), lambda _: None)
    with pytest.raises(OutputExistsError):
        build(tmp_path / "file", shelf.request(), lambda _: None)


def test_lock_that_lacks_a_package_and_package_given_twice_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    short = tmp_path / "lock"
    short.write_text((shelf.folder / "lock").read_text().replace("needed_one", "something"))
    with pytest.raises(ParseError, match="does not have needed-one"):
        build(tmp_path / "image", shelf.request(lock=short), lambda _: None)
    again = make_wheel(tmp_path, "confide", "9.8")
    with pytest.raises(ImageError, match="given twice"):
        build(tmp_path / "image", shelf.request(wheels=(*shelf.request().wheels, again)), lambda _: None)


# --- signing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "enclave.pem"
    path.parent.mkdir()
    path.write_bytes(KEY)
    return path


@pytest.fixture
def signer(shelf: Shelf) -> str:
    return shelf.signer()


@pytest.fixture
def image(own_copy: Built) -> Context:
    return own_copy(Shape.SGX)


def test_signed_image_proves_what_its_files_make(image: Context, key: Path, signer: str) -> None:
    assert signed_values(image) is None
    values = sign(image, key, signer=signer)
    assert values == signed_values(Context.load(image.folder))
    assert values.mr_signer is not None
    assert values.isv_svn == 4
    place = image.tree.place(SIGNED[0])
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert place.stat().st_mtime == 0
    assert not [finding for finding in lint(place.read_bytes()) if finding.severity == "error"]
    assert key.read_bytes() not in b"".join(path.read_bytes() for path in image.tree.files())


def test_two_signed_images_are_the_same(built: Built, key: Path, signer: str, tmp_path: Path) -> None:
    entries = []
    for name in ("one", "two"):
        shutil.copytree(built(Shape.SGX).folder, tmp_path / name, symlinks=True)
        image = Context.load(tmp_path / name)
        sign(image, key, signer=signer)
        entries.append(image.tree.entries())
    assert entries[0] == entries[1]


@pytest.mark.parametrize("place", ["enclave.pem", "rootfs/opt/enclave.pem"])
def test_key_inside_the_image_is_refused(image: Context, key: Path, signer: str, place: str) -> None:
    inside = image.folder / place
    inside.write_bytes(KEY)
    with pytest.raises(ImageError, match="lies in the image's own folder"):
        sign(image, inside, signer=signer)
    linked = key.with_name("link.pem")
    linked.symlink_to(inside)
    with pytest.raises(ImageError, match="lies in the image's own folder"):
        sign(image, linked, signer=signer)
    with pytest.raises(ImageError, match="there is no key"):
        sign(image, key.with_name("nothing.pem"), signer=signer)


def test_key_that_was_put_into_the_image_after_it_was_built_is_found(image: Context, key: Path, signer: str) -> None:
    (image.tree.root / "opt" / "enclave.pem").write_bytes(KEY)
    with pytest.raises(ImageError, match="not those that were built"):
        sign(image, key, signer=signer)


def test_image_whose_manifest_was_changed_is_not_signed(image: Context, key: Path, signer: str) -> None:
    manifest = image.folder / "node.manifest"
    text = manifest.read_text()
    manifest.write_text(f"{text}\nsgx.debug = true\n".replace("sgx.debug = false\n", ""))
    with pytest.raises(ImageError, match="lets the host in"):
        sign(image, key, signer=signer)
    manifest.write_text(text.replace("file:/etc/confide/node/workers.json", "file:/opt/plugins/"))
    with pytest.raises(ImageError, match="lets the host in"):
        sign(image, key, signer=signer)


@pytest.mark.parametrize(
    ("word", "error"), [("refused", ImageError), ("signs another", AppraisalError), ("drops files", ImageError)]
)
def test_signature_that_is_not_of_this_image_is_refused_and_not_kept(image: Context, key: Path, signer: str, word: str, error) -> None:
    key.write_text(word)
    with pytest.raises(error):
        sign(image, key, signer=signer)
    assert signed_values(image) is None


def test_program_that_is_not_there_is_named(image: Context, key: Path) -> None:
    with pytest.raises(ImageError, match="there is no gramine-sgx-nothing"):
        sign(image, key, signer="gramine-sgx-nothing")


def test_image_is_signed_once_and_only_if_it_has_an_enclave(image: Context, built: Built, key: Path, signer: str) -> None:
    sign(image, key, signer=signer)
    with pytest.raises(ImageError, match="signed already"):
        sign(image, key, signer=signer)
    with pytest.raises(ImageError, match="no enclave"):
        sign(built(Shape.SIMULATED), key, signer=signer)


def test_signed_file_that_is_changed_later_is_refused(image: Context, key: Path, signer: str) -> None:
    sign(image, key, signer=signer)
    manifest, signature = (image.tree.place(path) for path in SIGNED)
    good = signature.read_bytes()
    signature.write_bytes(good[:600] + bytes([good[600] ^ 1]) + good[601:])
    with pytest.raises(EvidenceInvalidError):
        signed_values(image)
    signature.write_bytes(good)
    manifest.write_text(manifest.read_text() + "\n# more\n")
    with pytest.raises(AppraisalError):
        signed_values(image)
