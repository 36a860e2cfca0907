"""SoftHSM2 with a token in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType

MODULE = next((path for path in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/libsofthsm2.so",
                                           "/usr/local/lib/softhsm/libsofthsm2.so")) if path.exists()), Path("libsofthsm2.so"))  # fmt: skip
TOKEN = "custody"


class SoftHsm:
    """One for a process: the library reads its configuration when it is initialized."""

    def __init__(self, folder: Path, pin: str) -> None:
        self.pin = pin
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        config = folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(config)
        subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", pin, "--so-pin", pin[::-1]],
                       check=True, capture_output=True, timeout=60)  # fmt: skip
        self.library().reinitialize()

    def library(self) -> Any:
        return pkcs11.lib(str(MODULE))

    def create_key(self, label: str, name: bytes, **attributes: bool) -> None:
        template = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **{Attribute[key]: value for key, value in attributes.items()}}
        with self.library().get_token(token_label=TOKEN).open(user_pin=self.pin, rw=True) as session:
            session.generate_key(KeyType.AES, 256, label=label, id=name, store=True, template=template)

    def set_usable(self, label: str, *, usable: bool) -> None:
        with self.library().get_token(token_label=TOKEN).open(user_pin=self.pin, rw=True) as session:
            for key in session.get_objects({Attribute.LABEL: label}):
                key[Attribute.ENCRYPT] = usable
                key[Attribute.DECRYPT] = usable

    def unplug(self) -> None:
        self.tokens.rename(self.tokens.with_name("unplugged"))

    def plug_in(self) -> None:
        self.tokens.with_name("unplugged").rename(self.tokens)
