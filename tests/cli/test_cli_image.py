"""``confide image``: what it refuses, prints and writes.  Building and signing themselves: tests/unit/jobs/images, tests/deploy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.sigstruct import signing_key
from support.small_images import Shelf

from confide.attest.launch import manifest_lint
from confide.attest.policy import Policy

ROOT = Path(__file__).parents[2]
MANIFEST = """
libos.entrypoint = "/app"
sgx.remote_attestation = "dcap"
sgx.trusted_files = [{ uri = "file:/app", sha256 = "%s" }]
fs.root.uri = "file:/"
""" % ("ab" * 32)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "app.manifest.sgx"
    path.write_text(MANIFEST)
    return path


def test_manifest_that_keeps_the_host_out_passes(confide: Any, manifest: Path) -> None:
    said = confide("image", "lint", manifest)
    assert (said.status, said.out) == (0, "app.manifest.sgx: the host stays out\n")
    assert confide("image", "lint", manifest, "--json").json["findings"] == []


def test_manifest_that_lets_the_host_in_is_told_how_and_ends_with_a_status(confide: Any, manifest: Path) -> None:
    manifest.write_text(f"{MANIFEST}\nsgx.debug = true\nloader.insecure__use_host_env = true\nloader.env.TZ = {{ passthrough = true }}\n")
    said = confide("image", "lint", manifest)
    assert said.status == 2
    assert re.findall(r"^(\w+)\[([a-z-]+)\]", said.out, re.MULTILINE) == [
        ("error", "debug"), ("error", "host-environment"), ("warning", "passthrough"),
    ]  # fmt: skip
    assert said.out.count("  hint: ") == 3
    answer = confide("image", "lint", manifest, "--json")
    assert answer.status == 2
    assert not answer.json["ok"]
    assert {finding["code"] for finding in answer.json["findings"]} == {"debug", "host-environment", "passthrough"}


def test_warnings_alone_are_no_refusal(confide: Any, manifest: Path) -> None:
    manifest.write_text(f"{MANIFEST}\nloader.env.TZ = {{ passthrough = true }}\n")
    assert confide("image", "lint", manifest).status == 0


def test_template_is_refused_as_what_it_is(confide: Any, manifest: Path) -> None:
    manifest.write_text("libos.entrypoint = {{ entrypoint }}\n")
    said = confide("image", "lint", manifest)
    assert said.status == 5
    assert "rendered by gramine-manifest first" in said.err


def test_every_finding_is_documented() -> None:
    page = (ROOT / "docs" / "guides" / "images.md").read_text(encoding="utf-8")
    source = Path(manifest_lint.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'(?:_error|_warning|make)\("([a-z-]+)"', source)) | {"untrusted-arguments", "untrusted-environment"}
    documented = set(re.findall(r"^\| `([a-z-]+)` \| (?:error|warning)", page, re.MULTILINE))
    assert documented == codes


def test_folder_that_is_there_is_not_built_over(confide: Any, tmp_path: Path) -> None:
    said = confide("image", "build", tmp_path)
    assert (said.status, "output-exists" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "sgx"), "a folder of Gramine goes with the shape sgx"),
        (("--gramine", "."), "a folder of Gramine goes with the shape sgx"),
        (("--shape", "vm", "--policy-out", "p.toml"), "--policy-out is for simulated nodes"),
        (("--wheel", "README.md"), "not the name of a wheel"),
        (("--lock", "README.md"), "not pinned"),
        (("--extra", "nothing"), "there is no extra nothing"),
    ],
)
def test_image_that_cannot_be_is_refused_and_nothing_is_left(
    confide: Any, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("not a lock\n")
    before = sorted(tmp_path.iterdir())
    said = confide("image", "build", "image", *words)
    assert said.status in {2, 5}
    assert message in said.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", [("show",), ("sign", "--key", "key.pem")])
def test_folder_without_an_image_is_refused(
    confide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pem").write_text("")
    said = confide("image", command[0], tmp_path, *command[1:])
    assert said.status == 2
    assert "there is no image here" in said.err
    (tmp_path / "image.json").write_text('{"format": "confide-image-v9"}')
    assert "of another version" in confide("image", command[0], tmp_path, *command[1:]).err
    (tmp_path / "image.json").write_text('{"format": "confide-image-v1", "shape": "sgx", "entries": [1]}')
    assert "is damaged" in confide("image", command[0], tmp_path, *command[1:]).err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_image_is_built_shown_signed_and_shown_with_what_its_nodes_will_prove(confide: Any, tmp_path: Path) -> None:
    shelf, out, policy, key = Shelf.fill(tmp_path), tmp_path / "image", tmp_path / "policy.toml", tmp_path / "enclave.pem"
    key.write_bytes(signing_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    asked = ("--shape", "sgx", "--gramine", shelf.gramine, "--enclave-size", "64M", "--max-threads", 8, "--edmm", "--isv-prod-id", 3)
    built = confide("image", "build", out, *shelf.words(), *asked)
    assert built.status == 0
    assert "-> byte code" in built.err
    assert f"not signed: `confide image sign {out} --key KEY`" in built.err
    manifest = (out / "node.manifest").read_text()
    assert [line for line in ('sgx.enclave_size = "64M"', "sgx.max_threads = 8", "sgx.edmm_enable = true") if line not in manifest] == []
    assert confide("image", "show", out, "--json").json["policy"] is None
    assert "sign the image first" in confide("image", "show", out, "--policy-out", policy).err

    signed = confide("image", "sign", out, "--key", key, "--signer", shelf.signer(), "--policy-out", policy, "--json")
    assert signed.status == 0
    reference = signed.json["reference"]
    assert (sorted(reference), reference["isv_prod_id"]) == (["isv_prod_id", "isv_svn", "mrenclave", "mrsigner", "tee"], 3)
    shown = confide("image", "show", out)
    assert f'sgx = ["{reference["mrenclave"]}"]' in shown.out
    assert Policy.load(policy).to_json() == signed.json["policy"] == confide("image", "show", out, "--json").json["policy"]
    lint = confide("image", "lint", out / "rootfs/opt/confide/node.manifest.sgx", "--json").json
    assert (lint["ok"], [finding["code"] for finding in lint["findings"]]) == (True, ["allowed-file"] * 5)

    next(out.glob("rootfs/opt/python/lib/*/os.py")).write_text("import evil")
    assert "not those that were built" in confide("image", "show", out).err
