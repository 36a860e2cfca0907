"""A real software TPM (swtpm) with its manufacturer's certificates, driven by tpm2-tools; and an owner's CA for attestation keys."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest.tpm_enrol import challenge
from confide.attest.tpm_format import Public

_EK_CERTIFICATE = "0x1c00002"
"""Where a TPM keeps the certificate of its RSA 2048 EK (TCG EK Credential Profile, section 2.2.1.4)."""


class Owner:
    """An owner's CA for attestation keys."""

    def __init__(self, now: datetime | None = None) -> None:
        # A minute ahead: certificates of a TPM that is made later in the same second, or soon after, are valid then.
        self.now = now or datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "owner of the nodes")])
        self.root = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=1)).not_valid_after(self.now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip

    @property
    def pins(self) -> frozenset[str]:
        return frozenset({fingerprint(self.root)})

    def chain(self, certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(Encoding.PEM) + self.root.public_bytes(Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


class Swtpm:
    """One TPM in a folder.  Keys are files of tpm2-tools in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self._make()
        port = _free_ports()
        self.tcti = f"swtpm:host=127.0.0.1,port={port}"
        self._process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--server", f"type=tcp,port={port}", "--ctrl",
             f"type=tcp,port={port + 1}", "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(port + 1, self._process)

    def _make(self) -> None:
        """As swtpm_setup does for a manufacturer whose CA lives in this folder."""
        ca, setup = self.folder / "ca", self.folder / "setup.conf"
        ca.mkdir()
        (self.folder / "ca.conf").write_text(
            f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
        )
        (self.folder / "options.conf").write_text("--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")
        setup.write_text(
            f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {self.folder}/ca.conf\n"
            f"create_certs_tool_options = {self.folder}/options.conf\nactive_pcr_banks = sha256\n"
        )
        run("swtpm_setup", "--tpm2", "--tpmstate", str(self.state), "--config", str(setup), "--create-ek-cert", "--pcr-banks", "sha256")

    def tool(self, *command: str) -> bytes:
        return run(*command, cwd=self.folder, TPM2TOOLS_TCTI=self.tcti)

    def flush(self) -> None:
        self.tool("tpm2_flushcontext", "-t")

    def path(self, name: str) -> Path:
        return self.folder / name

    def make_ek(self) -> list[x509.Certificate]:
        """Make the EK, and read its certificate with the manufacturer's chain."""
        self.tool("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
        self.flush()
        leaf = x509.load_der_x509_certificate(self.tool("tpm2_nvread", _EK_CERTIFICATE))
        ca = [x509.load_pem_x509_certificate((self.folder / "ca" / f"{name}.pem").read_bytes())
              for name in ("issuercert", "swtpm-localca-rootca-cert")]  # fmt: skip
        return [leaf, *ca]

    def make_ak(self, name: str, kind: str = "ecc", scheme: str = "ecdsa") -> Public:
        self.tool("tpm2_createak", "-C", "ek.ctx", "-c", f"{name}.ctx", "-G", kind, "-g", "sha256", "-s", scheme, "-u", f"{name}.pub",
                  "-f", "tpmt")  # fmt: skip
        self.flush()
        return Public.parse(self.path(f"{name}.pub").read_bytes())

    def make_plain_key(self, name: str) -> bytes:
        """A signing key without the attribute "restricted": the TPM signs any digest with it."""
        self.tool("tpm2_createprimary", "-C", "o", "-G", "ecc256:ecdsa-sha256:null", "-c", f"{name}.ctx", "-a",
                  "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")  # fmt: skip
        self.flush()
        self.tool("tpm2_readpublic", "-c", f"{name}.ctx", "-f", "tpmt", "-o", f"{name}.pub")
        self.flush()
        return self.path(f"{name}.pub").read_bytes()

    def sign(self, name: str, data: bytes) -> bytes:
        self.path("data").write_bytes(data)
        self.tool("tpm2_sign", "-c", f"{name}.ctx", "-g", "sha256", "-s", "ecdsa", "-o", "data.sig", "data")
        self.flush()
        return self.path("data.sig").read_bytes()

    def extend(self, pcr: int, digest: bytes) -> None:
        self.tool("tpm2_pcrextend", f"{pcr}:sha256={digest.hex()}")

    def start(self, *events: tuple[int, bytes]) -> None:
        """Measure and log what a machine starts (PCR and text), as firmware does."""
        self.path("log").write_bytes(log_of(*events))
        for pcr, text in events:
            self.extend(pcr, hashlib.sha256(text).digest())

    def activate(self, name: str, credential: bytes, encrypted: bytes) -> bytes:
        """TPM2_ActivateCredential.  The file is tpm2-tools' own: magic, version, and the two structures."""
        self.path("credential").write_bytes(bytes.fromhex("badcc0de00000001") + credential + encrypted)
        self.tool("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            self.tool("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            self.tool("tpm2_activatecredential", "-c", f"{name}.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "answer", "-P",
                      "session:session.ctx")  # fmt: skip
        finally:
            self.tool("tpm2_flushcontext", "session.ctx")
            self.flush()
        return self.path("answer").read_bytes()

    def enrol(self, name: str, public: Public, owner: Owner, ek: list[x509.Certificate]) -> bytes:
        """The whole protocol, both sides: the chain of the AK's new certificate."""
        asked = challenge(ek, public, {fingerprint(ek[-1])}, owner.now)
        answer = self.activate(name, asked.credential, asked.encrypted_secret)
        return owner.chain(asked.certify(answer, owner.root, owner.key, now=owner.now, valid=timedelta(days=30)))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def run(*command: str, cwd: Path | None = None, **environment: str) -> bytes:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace') or done.stdout.decode(errors='replace')}")
    return done.stdout


def log_of(*events: tuple[int, bytes], locality: int | None = None) -> bytes:
    """A crypto-agile log, as firmware writes it: ``events`` are PCR and the text that was measured."""
    spec = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + (1).to_bytes(4, "little") + b"\x0b\0\x20\0" + b"\0"
    log = bytes(4) + (3).to_bytes(4, "little") + bytes(20) + len(spec).to_bytes(4, "little") + spec
    if locality is not None:
        log += log_event(0, bytes(32), b"StartupLocality\0" + bytes([locality]), kind=3)
    return log + b"".join(log_event(pcr, hashlib.sha256(text).digest(), text) for pcr, text in events)


def log_event(pcr: int, digest: bytes, text: bytes, kind: int = 0xD) -> bytes:
    numbers = b"".join(number.to_bytes(4, "little") for number in (pcr, kind, 1))
    return numbers + b"\x0b\0" + digest + len(text).to_bytes(4, "little") + text


def _free_ports() -> int:
    """Two ports in a row, as tpm2-tools expects: the second is for control."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise RuntimeError("no two free ports in a row")


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("swtpm did not start")
