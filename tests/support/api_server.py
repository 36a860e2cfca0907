"""A small API server over HTTPS: objects with versions, watches from their history, logs, port forwarding, and faults to order.

It checks nothing that a real one checks: it is for what a client does with answers, and with none.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.tls_peers import Authority

TOKEN = "token-of-ann-0123456789"
_ONE = re.compile(r"^(?P<all>/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/[a-z]+)/(?P<name>[^/]+)$")
PODS = "/api/v1/namespaces/runs/pods"


def pod_of(name: str, **spec: Any) -> dict[str, Any]:
    """A pod as a client makes it."""
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """A refusal as Kubernetes words it."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}


class ApiServer:
    """``asked`` has each request (method, path with query, headers, body).

    ``faults`` has the answers to give before any other, ``refused`` the collections in which nothing can be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ca = folder, Authority("cluster")
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.faults: list[tuple[int, Any, dict[str, str]]] = []
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.logs_end = True
        self.allowed: set[tuple[str, str, str]] | None = None
        self.refused: dict[str, dict[str, Any]] = {}
        self.events_before_cut: int | None = None
        self.oldest, self.version, self.page, self.port = 0, 100, 0, 0
        self.changed = threading.Condition()
        self.connections: set[Any] = set()
        identity = self.ca.issue("localhost")
        key = identity.key.unwrapped().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "server.pem").write_bytes(key + identity.certificate_pem)
        (folder / "ca.crt").write_bytes(self.ca.pem)
        self.start()

    # --- life ---

    def start(self) -> None:
        """Serve, at the same port if it has served before."""
        api = self
        self.serving = True

        class Handler(_Handler):
            server_of = api

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.folder / "server.pem")
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be gone, with every connection."""
        self.serving = False
        self.http.shutdown()
        self.http.server_close()
        self.cut()

    def cut(self) -> None:
        """Break each open connection."""
        for each in list(self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(2)
        with self.changed:
            self.changed.notify_all()

    def kubeconfig(self, *, namespace: str | None = "runs", user: dict[str, Any] | None = None, **cluster: Any) -> Path:
        """A kubeconfig with the context ``test``."""
        about = {"server": f"https://localhost:{self.port}", "certificate-authority": str(self.folder / "ca.crt"), **cluster}
        context = {"cluster": "c", "user": "ann"} | ({"namespace": namespace} if namespace else {})
        path = self.folder / "kubeconfig"
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "other",
            "clusters": [{"name": "c", "cluster": {name: value for name, value in about.items() if value is not None}}],
            "users": [{"name": "ann", "user": {"token": TOKEN} if user is None else user}],
            "contexts": [{"name": "test", "context": context}],
        }
        path.write_text(yaml.safe_dump(text), encoding="utf-8")
        return path

    # --- state ---

    def put(self, collection: str, found: dict[str, Any], kind: str | None = None) -> dict[str, Any]:
        """Keep an object and tell watches."""
        with self.changed:
            self.version += 1
            name = found["metadata"]["name"]
            told = kind or ("MODIFIED" if (collection, name) in self.objects else "ADDED")
            about = {"uid": f"uid-{name}-{self.version}", **found["metadata"], "resourceVersion": str(self.version)}
            about["uid"] = self.objects.get((collection, name), {"metadata": about})["metadata"]["uid"]
            kept = {**found, "metadata": about}
            if told == "DELETED":
                self.objects.pop((collection, name), None)
            else:
                self.objects[collection, name] = kept
            self.history.append((self.version, collection, told, kept))
            self.changed.notify_all()
            return kept

    def remove(self, collection: str, name: str) -> None:
        """Delete an object and tell watches."""
        self.put(collection, self.objects[collection, name], "DELETED")

    def forget(self) -> None:
        """Watches from before now are answered with 410."""
        with self.changed:
            self.history, self.oldest = [], self.version


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ApiServer

    def setup(self) -> None:
        self.request.settimeout(20)
        self.request = self.server_of.context.wrap_socket(self.request, server_side=True)
        self.server_of.connections.add(self.request)
        super().setup()

    def finish(self) -> None:
        self.server_of.connections.discard(self.request)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass

    def _any(self) -> None:
        api = self.server_of
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        api.asked.append((self.command, self.path, dict(self.headers), body))
        if api.faults:
            code, said, headers = api.faults.pop(0)
            self._say(code, said, headers)
        elif self.headers.get("Authorization", "").partition(" ")[2] != TOKEN:
            self._say(401, status(401, "Unauthorized", "Unauthorized"))
        else:
            self._answer(urlsplit(self.path).path, {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}, body)

    do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815  # the standard library's names

    def _say(self, code: int, said: Any, headers: dict[str, str] | None = None) -> None:
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, path: str, query: dict[str, str], body: Any) -> None:
        api, one = self.server_of, _ONE.match(path)
        if path == "/version":
            self._say(200, {"gitVersion": "v1.33.1"})
        elif path.endswith("/log"):
            self._log(path.split("/")[-2], query)
        elif path.endswith("/portforward"):
            self._forward()
        elif self.command == "POST" and path.endswith("selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            part = f"/{asked['subresource']}" if asked["subresource"] else ""
            right = (asked["verb"], asked["resource"] + part, asked["namespace"])
            self._say(201, {**body, "status": {"allowed": api.allowed is None or right in api.allowed}})
        elif self.command == "POST" and path.rpartition("/")[2] in api.refused:
            refusal = api.refused[path.rpartition("/")[2]]
            self._say(refusal["code"], refusal)
        elif self.command == "POST":
            if (path, body["metadata"]["name"]) in api.objects:
                self._say(409, status(409, "AlreadyExists", f'{body["metadata"]["name"]} already exists'))
            else:
                self._say(201, body if query.get("dryRun") else api.put(path, body))
        elif one is None:
            self._watch(path, query) if query.get("watch") else self._list(path, query)
        else:
            self._one(one, body)

    def _one(self, one: re.Match[str], body: Any) -> None:
        api = self.server_of
        if (one["all"], one["name"]) not in api.objects:
            self._say(404, status(404, "NotFound", f'{one["name"]} not found'))
        elif self.command == "PATCH":
            self._say(200, api.put(one["all"], _merge(api.objects[one["all"], one["name"]], body)))
        elif self.command == "DELETE":
            api.remove(one["all"], one["name"])
            self._say(200, {"kind": "Status", "status": "Success"})
        else:
            self._say(200, api.objects[one["all"], one["name"]])

    def _list(self, path: str, query: dict[str, str]) -> None:
        api = self.server_of
        found = [each for (collection, _), each in sorted(api.objects.items()) if collection == path]
        start = int(query.get("continue", "0"))
        end = start + api.page if api.page else len(found)
        more = {"continue": str(end)} if end < len(found) else {}
        self._say(200, {"kind": "List", "metadata": {"resourceVersion": str(api.version), **more}, "items": found[start:end]})

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _watch(self, path: str, query: dict[str, str]) -> None:
        api, at = self.server_of, int(query["resourceVersion"])
        self._begin()
        if at < api.oldest:
            gone = {"type": "ERROR", "object": status(410, "Expired", "too old resource version")}
            self._piece(json.dumps(gone).encode() + b"\n")
            self._piece(b"")
            return
        end = time.monotonic() + min(float(query["timeoutSeconds"]), 15)
        while time.monotonic() < end and api.serving:
            with api.changed:
                new = [(version, kind, found) for version, where, kind, found in api.history if version > at and where == path]
                if not new:
                    api.changed.wait(0.05)
            for version, kind, found in new:
                if api.events_before_cut == 0:
                    api.events_before_cut = None
                    self._piece(json.dumps({"type": kind, "object": found}).encode()[:20])
                    self.request.shutdown(2)
                    return
                api.events_before_cut = None if api.events_before_cut is None else api.events_before_cut - 1
                # Two pieces: a line need not come at once.
                line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
                self._piece(line[:15])
                self._piece(line[15:])
                at = version
        self._piece(b"")

    def _log(self, pod: str, query: dict[str, str]) -> None:
        api, told = self.server_of, 0
        self._begin()
        while api.serving:
            lines = api.logs.get(pod, [])
            for at, text in lines[told:]:
                if at[:19] + "Z" >= query.get("sinceTime", ""):
                    self._piece(f"{at} {text}\n".encode())
            told = len(lines)
            if api.logs_end or query["follow"] == "false":
                self._piece(b"")
                return
            time.sleep(0.02)

    def _forward(self) -> None:
        """Send back in capitals what comes; port 1 is closed, port 2 speaks first."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
        self.send_response(101)
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        port = int(parse_qs(urlsplit(self.path).query)["ports"][0])
        # All at once: several messages in one TLS record.
        begun = b"".join(_framed(bytes([channel]) + port.to_bytes(2, "little")) for channel in (0, 1))
        self.wfile.write(begun + (_framed(b"\x00hello") if port == 2 else b""))
        if port == 1:
            self._frame(b"\x01" + b"connection refused")
        while (data := self._unframe()) is not None:
            self._frame(b"\x00" + data[1:].upper())

    def _frame(self, data: bytes) -> None:
        self.wfile.write(_framed(data))

    def _unframe(self) -> bytes | None:
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return None
        length = head[1] & 127
        length = int.from_bytes(self.rfile.read(2), "big") if length == 126 else length
        mask = self.rfile.read(4)
        return bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))


def _framed(data: bytes) -> bytes:
    length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    return b"\x82" + length + data


def _merge(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
