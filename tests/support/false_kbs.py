"""A KBS that anybody could run: TLS with a certificate of a test CA, and whatever answers a test gives it."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from confide.crypto.secret import SecretBytes
from confide.keys.kbs.tee_key import TeePublicKey

Answer = Callable[[str, str, bytes], bytes]
"""Method, path and body of a request to the bytes of the answer."""


def http(status: int, body: object, *headers: str) -> bytes:
    """A whole HTTP answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(data)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


CHALLENGE = http(200, {"nonce": "bm9uY2Vub25jZQ==", "extra-params": ""}, "set-cookie: kbs-session-id=abc", "content-type: application/json")
TOKEN = http(200, {"token": "a.b.c"})


def encrypting(secret: bytes) -> dict[str, Any]:
    """The script of a KBS that attests everybody and encrypts to the key that the guest showed."""
    shown: list[TeePublicKey] = []

    def attest(_method: str, _path: str, body: bytes) -> bytes:
        shown.append(TeePublicKey.from_json(json.loads(body)["runtime-data"]["tee-pubkey"]))
        return http(200, {"token": "a.b.c"})

    return {"attest": attest, "resource": lambda *_: http(200, shown[-1].encrypt(SecretBytes(secret)), "content-type: text/xml")}


class FalseKbs:
    """Serves one connection after another.  ``script`` maps ``auth``, ``attest`` and ``resource`` to answers or to functions."""

    def __init__(self, script: dict[str, Any], *, key: str = "rsa", name: str | None = None) -> None:
        self.script = {"auth": CHALLENGE, "attest": TOKEN, **script}
        self.asked: list[tuple[str, str, bytes]] = []
        self.ca_pem, chain = _certificates(key, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            Path(file.name).write_bytes(chain)
            context.load_cert_chain(file.name)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self._thread.join(0.2)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(plain,), daemon=True).start()

    def _answer(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as sock:
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(fields.get(b"content-length", b"0")):
                body += sock.recv(65536)
            method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
            self.asked.append((method, path, body))
            step = path.removeprefix("/kbs/v0/").split("/")[0]
            answer = self.script[step]
            found = answer(method, path, body) if callable(answer) else answer
            for piece in found if isinstance(found, list) else [found]:
                if callable(piece):
                    piece()
                else:
                    sock.sendall(piece)


@functools.cache
def _certificates(kind: str, name: str | None) -> tuple[str, bytes]:
    """A CA, and a server's certificate with its key under an intermediate one."""
    now = dt.datetime.now(dt.UTC)

    def make(subject: str, issuer: str, public: Any, signer: Any, *, ca: bool) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (subject, issuer)]
        alternative = x509.DNSName(name) if name else x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = (
            x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )  # fmt: skip
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    root, middle = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    leaf: Any = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    top = make("root", "root", root.public_key(), root, ca=True)
    between = make("middle", "root", middle.public_key(), root, ca=True)
    end = make("leaf", "middle", leaf.public_key(), middle, ca=False)
    pem = leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return top.public_bytes(Encoding.PEM).decode(), pem + end.public_bytes(Encoding.PEM) + between.public_bytes(Encoding.PEM)
