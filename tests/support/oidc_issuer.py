"""A real OpenID provider on loopback (``tests/support/oidc``), and tokens made by hand with its keys, for what no provider would issue."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS
from support.custody.tls import Tls
from support.machine import need_file

from confide.crypto.tls import Identity
from confide.keys.token_issuers import OwnerIssuer

FOLDER = Path(__file__).parent / "oidc"
AUDIENCE = "https://broker.example/keys"
ALGORITHMS = {"clinic-app": "ES256", "rsa-app": "RS256", "ed-app": "EdDSA"}
GROUPS = {"carol-app": ["auditors", "staff"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_keys(prefix: str) -> list[JWK]:
    return [
        JWK.generate(kty="EC", crv="P-256", kid=f"{prefix}-ec", alg="ES256", use="sig"),
        JWK.generate(kty="RSA", size=2048, kid=f"{prefix}-rsa", alg="RS256", use="sig"),
        JWK.generate(kty="OKP", crv="Ed25519", kid=f"{prefix}-ed", alg="EdDSA", use="sig"),
    ]


class Issuer:
    """The provider's process.  Clients get a token by their secret; ``bound-app`` gets tokens that are bound to its certificate."""

    clients = ("clinic-app", "rsa-app", "ed-app", "bound-app", "carol-app", "long-app", "stranger-app")

    def __init__(self, folder: Path) -> None:
        self.tls = Tls(folder / "tls")
        self.folder, self.port = folder, free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.keys = new_keys("first")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        clients = [
            {"client_id": name, "client_secret": f"secret-of-{name}", "grant_types": ["client_credentials"], "response_types": [],
             "redirect_uris": [], "token_endpoint_auth_method": "client_secret_post",
             "tls_client_certificate_bound_access_tokens": name == "bound-app"}
            for name in self.clients
        ]  # fmt: skip
        config = {
            "issuer": self.url, "port": self.port, "audience": AUDIENCE, "clients": clients, "modules": str(FOLDER),
            "certificate": str(self.tls.server), "key": str(self.tls.server_key), "algorithms": ALGORITHMS, "ttl": {"long-app": 7200},
            "claims": {name: {"groups": groups} for name, groups in GROUPS.items()},
            "jwks": {"keys": [key.export(as_dict=True) for key in self.keys]},
        }  # fmt: skip
        file = self.folder / "issuer.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        need_file(str(FOLDER / "node_modules" / "oidc-provider" / "package.json"), "scripts/install_oidc.sh")
        with (self.folder / "issuer.log").open("ab") as log:
            command = ["node", "provider.mjs", str(file)]
            self._process = subprocess.Popen(command, cwd=FOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == b"ready", (self.folder / "issuer.log").read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def rotate(self) -> None:
        """The provider goes on with other keys."""
        self.stop()
        self.keys = new_keys("second")
        self.start()

    def believed(self, **changes: Any) -> OwnerIssuer:
        """How a broker's file names this issuer."""
        clients = tuple(name for name in self.clients if name != "stranger-app")
        return OwnerIssuer(**{"issuer": self.url, "audience": AUDIENCE, "clients": clients, "ca_file": self.tls.ca, **changes})

    def token(self, client: str = "clinic-app", *, resource: str = AUDIENCE, identity: Identity | None = None) -> str:
        """A token from the provider's token endpoint."""
        context = ssl.create_default_context(cafile=str(self.tls.ca))
        if identity is not None:
            file = self.folder / "client-identity.pem"
            file.touch(mode=0o600)
            file.write_bytes(identity.key.private_pem().reveal() + identity.certificate_pem)
            context.load_cert_chain(file)
        fields = {"grant_type": "client_credentials", "client_id": client, "client_secret": f"secret-of-{client}", "resource": resource}
        asked = urllib.request.Request(f"{self.url}/token", urllib.parse.urlencode(fields).encode())
        with urllib.request.urlopen(asked, context=context, timeout=10) as answer:
            return str(json.loads(answer.read())["access_token"])

    def forge(self, *, key: JWK | None = None, header: dict[str, Any] | None = None, drop: tuple[str, ...] = (), **claims: Any) -> str:
        """A token signed by hand, with the provider's own EC key unless another is given."""
        now = int(time.time())
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "clinic-app", "client_id": "clinic-app", "iat": now, "exp": now + 300, "jti": "1"}
        said = {name: value for name, value in {**said, **claims}.items() if name not in drop}
        signer = key or self.keys[0]
        head = {"alg": signer.get("alg") or "ES256", "kid": signer.get("kid"), "typ": "at+jwt", **(header or {})}
        token = JWS(json.dumps(said).encode())
        token.allowed_algs = ["ES256", "RS256", "EdDSA", "HS256", "PS256"]
        token.add_signature(signer, protected=json.dumps(head))
        return str(token.serialize(compact=True))


def thumbprint(identity: Identity) -> str:
    """``x5t#S256`` of an identity's certificate."""
    der = x509.load_pem_x509_certificate(identity.certificate_pem).public_bytes(Encoding.DER)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
