"""Certificates and tokens of a test cluster: one authority for a few hours, one certificate for the API server, one token a component."""

from __future__ import annotations

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": ("system:node:node1", "system:nodes"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "dns": ("dns", "system:masters"),
}
_LIFE = timedelta(days=1)


def make(folder: Path, host: str, service: str) -> None:
    """Write ``ca.crt``, the API server's pair, the service accounts' key, ``tokens.csv`` and a kubeconfig for each of ``USERS``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, authority = _certificate("test cluster", None, None)
    names: list[x509.GeneralName] = [x509.DNSName(f"kubernetes{part}") for part in ("", ".default", ".default.svc")]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", host, service)]
    key, certificate = _certificate("kube-apiserver", (authority_key, authority), names)
    (folder / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "api.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "api.key").write_bytes(_pem(key))
    (folder / "sa.key").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))
    rows = []
    for user, (name, group) in USERS.items():
        token = secrets.token_urlsafe(24)
        rows.append(f'{token},{name},{user},"{group}"\n')
        (folder / f"{user}.conf").write_text(kubeconfig(f"https://{host}:6443", folder / "ca.crt", token))
    (folder / "tokens.csv").write_text("".join(rows))


def kubeconfig(server: str, authority: Path, token: str, *, context: str = "test") -> str:
    """A kubeconfig with one context."""
    return yaml.safe_dump({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": "test", "user": "test"}}],
        "current-context": context,
    })  # fmt: skip


def _certificate(
    name: str, issuer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None, names: list[x509.GeneralName] | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(key if issuer is None else issuer[0], SHA256())


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
