"""Certificates and tokens of a test cluster: one authority for a day, a certificate for each server, a token for each component."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_USERS = {
    "admin": ("admin", "system:masters"),
    "machine": ("machine", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}
_LIFE = timedelta(days=1)


def make(folder: Path, host: str, service: str, nodes: Mapping[str, str]) -> None:
    """Write keys and certificates of all servers, ``tokens.csv``, and a kubeconfig for each user.  ``nodes``: their addresses, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = _certificate("test cluster", None, [])
    (folder / "ca.crt").write_bytes(authority[1].public_bytes(Encoding.PEM))
    names: list[x509.GeneralName] = [x509.DNSName(f"kubernetes{part}") for part in ("", ".default", ".default.svc")]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", host, service)]
    _write(folder / "api", _certificate("kube-apiserver", authority, names))
    _write(folder / "kubelet-client", _certificate("kube-apiserver", authority, [], group="system:masters"))
    for node, address in nodes.items():
        _write(folder / node, _certificate(node, authority, [x509.DNSName(node), x509.IPAddress(ipaddress.ip_address(address))]))
    (folder / "sa.key").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))
    rows = []
    for user, (name, group) in {**_USERS, **{node: (f"system:node:{node}", "system:nodes") for node in nodes}}.items():
        token = secrets.token_urlsafe(24)
        rows.append(f'{token},{name},{user},"{group}"\n')
        (folder / f"{user}.conf").write_text(kubeconfig(f"https://{host}:6443", folder / "ca.crt", token))
    (folder / "tokens.csv").write_text("".join(rows))


def kubeconfig(server: str, authority: Path, token: str, *, namespace: str = "default") -> str:
    """A kubeconfig with one context, ``test``."""
    return yaml.safe_dump({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    })  # fmt: skip


_Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _certificate(name: str, issuer: _Pair | None, names: list[x509.GeneralName], *, group: str = "") -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])
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
    if issuer is not None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(key if issuer is None else issuer[0], SHA256())


def _write(path: Path, pair: _Pair) -> None:
    path.with_suffix(".key").write_bytes(_pem(pair[0]))
    path.with_suffix(".crt").write_bytes(pair[1].public_bytes(Encoding.PEM))


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
