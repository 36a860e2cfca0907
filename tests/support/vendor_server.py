"""A local server in the place of the vendors' collateral services: right answers from recorded collateral, wrong ones on demand."""

from __future__ import annotations

import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral import Collateral

Reply = tuple[int, dict[str, str], bytes]


class VendorServer:
    """Answers with ``replies`` by path; ``before`` is asked first, and may answer anything, or wait."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.before: Callable[[str, int], Reply | None] = lambda _path, _count: None
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                server.asked[path] += 1
                status, headers, body = server.before(self.path, server.asked[path]) or server.replies.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def serve_intel(self, found: Collateral, kind: str = "tdx") -> None:
        """What a PCCS answers for this set."""
        chains = {name: urllib.parse.quote(getattr(found, f"{name}_issuer_chain")) for name in ("tcb_info", "qe_identity", "pck_crl")}
        tcb = f'{{"tcbInfo":{found.tcb_info},"signature":"{found.tcb_info_signature.hex()}"}}'
        qe = f'{{"enclaveIdentity":{found.qe_identity},"signature":"{found.qe_identity_signature.hex()}"}}'
        base = f"/{kind}/certification/v4"
        self.replies |= {
            f"{base}/tcb": (200, {"TCB-Info-Issuer-Chain": chains["tcb_info"]}, tcb.encode()),
            f"{base}/qe/identity": (200, {"SGX-Enclave-Identity-Issuer-Chain": chains["qe_identity"]}, qe.encode()),
            "/sgx/certification/v4/pckcrl": (200, {"SGX-PCK-CRL-Issuer-Chain": chains["pck_crl"]}, found.pck_crl),
            "/sgx/certification/v4/rootcacrl": (200, {}, found.root_ca_crl.hex().encode()),
        }

    def serve_amd(self, found: AmdCollateral) -> None:
        """What the KDS answers for this set."""
        base = f"/{found.key}/v1/{found.product}"
        self.replies |= {f"{base}/cert_chain": (200, {}, found.chain.encode()), f"{base}/crl": (200, {}, found.crl)}

    def close(self) -> None:
        """End the server."""
        self.http.shutdown()
        self.http.server_close()
