"""The programs of tpm2-tools (5.x), which speak to this machine's TPM.  Why programs and no library: ``docs/decisions/0010-tpm.md``.

Hierarchies are used without a password, as they are on machines whose owner set none.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509

from confide.attest.certs import DOES_NOT_PARSE, whole
from confide.errors import AttesterError

QUOTE_TIMEOUT_S: Final = 30
ENROL_TIMEOUT_S: Final = 120
"""A TPM of its own chip may take most of a minute to make the RSA key that its EK is."""
_EK_CERTIFICATE: Final = "0x1c00002"
"""Where a TPM keeps the certificate of its RSA 2048 EK (TCG EK Credential Profile, section 2.2.1.4)."""
_CREDENTIAL_HEAD: Final = bytes.fromhex("badcc0de00000001")
"""Magic and version of the file in which tpm2-tools expect a credential and its encrypted secret."""


class TpmTools:
    """Runs programs against one TPM.  ``tcti`` says where it is, in the words of tpm2-tools; ``timeout_s`` is for each program."""

    def __init__(self, tcti: str, *, timeout_s: float = ENROL_TIMEOUT_S) -> None:
        self._tcti, self._timeout_s = tcti, timeout_s

    def run(self, *command: str) -> None:
        """Run one program.

        Raises:
            AttesterError: it is not installed, failed, or took too long.
        """
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TPM2TOOLS_TCTI": self._tcti}
        try:
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=self._timeout_s)
        except FileNotFoundError as cause:
            raise AttesterError(f"{command[0]} is not installed", hint="install tpm2-tools") from cause
        except subprocess.TimeoutExpired as cause:
            raise AttesterError(f"the TPM did not answer {command[0]}", seconds=self._timeout_s) from cause
        except subprocess.CalledProcessError as cause:
            lines = cause.stderr.decode("utf-8", "replace").strip().splitlines()
            said = [line for line in lines if "Unable to run" not in line] or ["it does not say why"]
            raise AttesterError(f"{command[0]} failed: {said[-1][:200]}") from cause

    def public(self, key: str) -> bytes:
        """TPMT_PUBLIC of a key (a persistent handle, or a file of tpm2-tools)."""
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            target = Path(name) / "public"
            self.run("tpm2_readpublic", "-c", key, "-f", "tpmt", "-o", str(target))
            return target.read_bytes()

    def ek_certificate(self) -> x509.Certificate:
        """The certificate that the manufacturer left in the TPM for its RSA 2048 endorsement key."""
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            target = Path(name) / "certificate"
            self.run("tpm2_nvread", _EK_CERTIFICATE, "-o", str(target))
            raw = target.read_bytes()
        # The space may be larger than the certificate: a DER SEQUENCE with a length of two bytes says where it ends.
        length = 4 + int.from_bytes(raw[2:4]) if raw[:2] == b"\x30\x82" else len(raw)
        try:
            return whole(x509.load_der_x509_certificate(raw[:length]))
        except DOES_NOT_PARSE as cause:
            raise AttesterError("the TPM has something else than its endorsement key's certificate") from cause

    def make_attestation_key(self, handle: str) -> None:
        """Make an attestation key (ECDSA on P-256) under the endorsement key, and keep it in the TPM at this handle."""
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            ek, ak = Path(name) / "ek", Path(name) / "ak"
            self._load("tpm2_createek", "-c", str(ek), "-G", "rsa")
            self._load("tpm2_createak", "-C", str(ek), "-c", str(ak), "-G", "ecc", "-g", "sha256", "-s", "ecdsa")
            self._load("tpm2_evictcontrol", "-C", "o", "-c", str(ak), handle)

    def activate(self, key: str, credential: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential: the secret, if this TPM has both the key that it is for and the endorsement key."""
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            ek, session, sent, secret = (Path(name) / part for part in ("ek", "session", "sent", "secret"))
            sent.write_bytes(_CREDENTIAL_HEAD + credential + encrypted_secret)
            self._load("tpm2_createek", "-c", str(ek), "-G", "rsa")
            self.run("tpm2_startauthsession", "--policy-session", "-S", str(session))
            try:
                self.run("tpm2_policysecret", "-S", str(session), "-c", "e")
                how = ("-i", str(sent), "-o", str(secret), "-P", f"session:{session}")
                self._load("tpm2_activatecredential", "-c", key, "-C", str(ek), *how)
            finally:
                self.run("tpm2_flushcontext", str(session))
            return secret.read_bytes()

    def _load(self, *command: str) -> None:
        """Run a program that loads keys, and give back their places: a TPM without a resource manager has few."""
        try:
            self.run(*command)
        finally:
            self.run("tpm2_flushcontext", "-t")
