"""One installation's simulated vendor: root, PCK CA, TCB signer, machines and their collateral, in a folder.

Private keys are files of mode 0600: whoever can read them can make "evidence", which is why simulation protects nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from confide.attest import certs
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralStore
from confide.attest.insecure.authority import BACKDATED, Signer, new_platform_ca, new_root, new_tcb_signer
from confide.attest.insecure.documents import Machine, Validity, qe_identity, tcb_info
from confide.errors import CollateralError, ConfigError
from confide.ids import Tee

FORMAT = "confide-simulated-v1"
_MARK = "installation.json"
_COLLATERAL_LIFE = timedelta(days=30)
_REFRESH_BEFORE = timedelta(days=1)
_BACKDATE = timedelta(hours=1)
"""Collateral begins a little before it is made, so that processes with slightly different clocks accept it."""


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA over SHA-256 in raw form (r ‖ s)."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Installation:
    """The simulated vendor of one machine.  ``create`` once, ``open`` from any process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = _load_certificate(folder / "root.pem")

    @classmethod
    def create(cls, folder: Path, *, now: datetime | None = None) -> Self:
        """Make an installation in ``folder``, or open the one that is there.  Several processes may do so at once.

        Raises:
            ConfigError: the folder is there but is no installation, or cannot be written.
        """
        now = now or datetime.now(UTC)
        if not (folder / _MARK).exists():
            _make(folder, now)
        return cls.open(folder, now=now)

    @classmethod
    def open(cls, folder: Path, *, now: datetime | None = None) -> Self:
        """Open an installation; collateral that is about to go stale is issued anew.

        Raises:
            ConfigError: there is none in ``folder``.
        """
        now = now or datetime.now(UTC)
        try:
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError) as cause:
            raise ConfigError("there is no simulated TEE here", hint="the first --simulate run makes it", path=str(folder)) from cause
        if mark != {"format": FORMAT}:
            raise ConfigError("the simulated TEE in this folder is of another version", path=str(folder))
        found = cls(folder)
        if found._is_stale(now):
            with _lock(folder / "lock"):
                if found._is_stale(now):
                    found._issue_collateral(now)
        return found

    @property
    def folder(self) -> Path:
        """Where the installation is."""
        return self._folder

    @property
    def root_der(self) -> bytes:
        """The root's certificate, for ``TrustRoots(simulated=...)``."""
        return certs.der(self._root)

    def collateral(self, tee: Tee, machine: Machine = Machine.GOOD) -> Collateral:
        """The collateral of one of the installation's machines."""
        found = self.collateral_source().get(machine.fmspc.hex(), "platform", tee)
        if not isinstance(found, Collateral):
            raise CollateralError("the simulated TEE makes Intel's kinds of evidence only", tee=tee.value)
        return found

    def collateral_source(self) -> CollateralStore:
        """All collateral of the installation."""
        return CollateralStore(self._folder / "collateral")

    def machine(self, machine: Machine) -> Signer:
        """The PCK certificate and key of a machine."""
        return self._signer(f"pck-{machine.value}")

    def pck_chain(self, machine: Machine) -> bytes:
        """PCK leaf, PCK CA and root as PEM, as quotes carry them."""
        chain = (self.machine(machine).certificate, _load_certificate(self._folder / "platform-ca.pem"), self._root)
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)

    def _signer(self, name: str) -> Signer:
        key = load_pem_private_key((self._folder / f"{name}.key").read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("a key of the simulated TEE is of the wrong kind", path=str(self._folder))
        return Signer(_load_certificate(self._folder / f"{name}.pem"), key)

    def _is_stale(self, now: datetime) -> bool:
        try:
            return any(now >= self.collateral(tee).epoch.stale_from - _REFRESH_BEFORE for tee in (Tee.SGX, Tee.TDX))
        except CollateralError:
            return True

    def _issue_collateral(self, now: datetime) -> None:
        current = Validity(now - _BACKDATE, now + _COLLATERAL_LIFE)
        stale = Validity(now - BACKDATED + timedelta(days=1), now - _COLLATERAL_LIFE)
        store = self.collateral_source()
        for tee in (Tee.SGX, Tee.TDX):
            store.put(self._collateral(tee, Machine.GOOD, current, current))
            store.put(self._collateral(tee, Machine.STALE_COLLATERAL, stale, current))
            store.put(self._collateral(tee, Machine.STALE_CRL, current, stale))

    def _collateral(self, tee: Tee, machine: Machine, documents: Validity, lists: Validity) -> Collateral:
        root, ca, signer = (self._signer(name) for name in ("root", "platform-ca", "tcb-signer"))
        root_pem = root.certificate.public_bytes(Encoding.PEM).decode()
        signer_chain = signer.certificate.public_bytes(Encoding.PEM).decode() + root_pem
        info, identity = tcb_info(tee, machine.fmspc, documents), qe_identity(tee, documents)
        revoked = (self.machine(Machine.REVOKED).certificate.serial_number,)
        # The time serves as the number: it grows, and no state has to be kept.
        number = int(lists.issued.timestamp())
        return Collateral(
            pck_crl_issuer_chain=ca.certificate.public_bytes(Encoding.PEM).decode() + root_pem,
            root_ca_crl=root.revocation_list(number, lists.issued, lists.until),
            pck_crl=ca.revocation_list(number, lists.issued, lists.until, revoked),
            tcb_info_issuer_chain=signer_chain,
            tcb_info=info,
            tcb_info_signature=raw_signature(signer.key, info.encode()),
            qe_identity_issuer_chain=signer_chain,
            qe_identity=identity,
            qe_identity_signature=raw_signature(signer.key, identity.encode()),
        )


def _make(folder: Path, now: datetime) -> None:
    """Build the whole installation beside its place and move it there in one step; the process that comes second finds the first's."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as cause:
        raise ConfigError(f"cannot make the simulated TEE: {cause.strerror}", path=str(folder)) from cause
    try:
        _write(work, now)
        work.rename(folder)
    except OSError as cause:
        if not (folder / _MARK).exists():
            raise ConfigError(f"cannot make the simulated TEE: {cause.strerror}", path=str(folder)) from cause
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(folder: Path, now: datetime) -> None:
    root = new_root(now)
    ca = new_platform_ca(root, now)
    signers = {"root": root, "platform-ca": ca, "tcb-signer": new_tcb_signer(root, now)}
    signers |= {f"pck-{m.value}": ca.issue("Intel SGX PCK Certificate", now, platform=m.platform) for m in Machine}
    for name, signer in signers.items():
        pem = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        (folder / f"{name}.pem").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    Installation(folder)._issue_collateral(now)  # noqa: SLF001  same module: the folder is not an installation yet
    (folder / _MARK).write_text(json.dumps({"format": FORMAT}), encoding="utf-8")


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as cause:
        raise ConfigError("the simulated TEE is damaged", hint="remove the folder: it is made again", path=str(path)) from cause


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
