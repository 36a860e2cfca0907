"""Private keys are found in whatever form they would come into an image, and what only speaks of keys is let through."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from confide.errors import ImageError
from confide.jobs.images.private_keys import holds_private_key, refuse_private_keys

RSA = rsa.generate_private_key(public_exponent=3, key_size=3072)
KEYS = {"rsa": RSA, "ec": ec.generate_private_key(ec.SECP256R1()), "ed25519": ed25519.Ed25519PrivateKey.generate()}
PASSWORD = BestAvailableEncryption(b"password")


def forms() -> dict[str, bytes]:
    found = {}
    for name, key in KEYS.items():
        texts = {"pkcs8": PrivateFormat.PKCS8, "openssh": PrivateFormat.OpenSSH}
        if name != "ed25519":  # it has no older form
            texts["old"] = PrivateFormat.TraditionalOpenSSL
            found[f"{name}-old-der"] = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        for form, how in texts.items():
            found[f"{name}-{form}-open-pem"] = key.private_bytes(Encoding.PEM, how, NoEncryption())
            if form != "openssh":  # one with a password needs bcrypt to make; its frame is the same
                found[f"{name}-{form}-locked-pem"] = key.private_bytes(Encoding.PEM, how, PASSWORD)
        found[f"{name}-pkcs8-der"] = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        found[f"{name}-pkcs8-locked-der"] = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PASSWORD)
    return found


FOUND = forms()


@pytest.mark.parametrize("name", FOUND)
def test_key_is_found_in_every_form(name: str) -> None:
    assert holds_private_key(FOUND[name])


@pytest.mark.parametrize("name", [name for name in FOUND if name.endswith("pem")])
def test_key_is_found_in_the_middle_of_other_things(name: str) -> None:
    key = FOUND[name]
    assert holds_private_key(b"\x7fELF\0\1\2" * 1000 + key + b"\0\xff" * 1000)
    assert holds_private_key(b"a = '" + key.replace(b"\n", b"\\n") + b"'\n")
    assert holds_private_key(b"\r\n".join(key.split(b"\n")))
    quoted = b"key = (\n" + b"".join(b'    b"' + line + b'\\n"\n' for line in key.splitlines()) + b")\n"
    assert holds_private_key(quoted)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"-----BEGIN PRIVATE KEY-----", b"write -----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        b'if text.startswith("-----BEGIN RSA PRIVATE KEY-----") or "-----END RSA PRIVATE KEY-----" in text and nothing_else_here():',
        b"-----BEGIN PRIVATE KEY-----\n" + b"the key goes here, in base64. " * 9 + b"\n-----END PRIVATE KEY-----",
        RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        bytes([0x30, 0x40]) + bytes(64), bytes([0x30, 0x82, 0x01]), bytes(4096),
    ],
)  # fmt: skip
def test_what_is_no_private_key_is_let_through(data: bytes) -> None:
    assert not holds_private_key(data)


def test_file_with_a_key_is_named_and_what_is_in_it_is_not_said(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_bytes(b"x = 1\n")
    refuse_private_keys([tmp_path / "module.py"])
    (tmp_path / "settings.ini").write_bytes(b"[tls]\n" + FOUND["ec-pkcs8-open-pem"])
    with pytest.raises(ImageError, match=r"settings\.ini") as refused:
        refuse_private_keys([tmp_path / "module.py", tmp_path / "settings.ini"])
    assert "PRIVATE" not in str(refused.value.to_json())
    assert refused.value.code == "image-refused"
