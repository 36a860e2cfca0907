"""PyKMIP's server as a process, with certificates of the test's own, and what its administrator does (by PyKMIP's client)."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from kmip.core.enums import CryptographicAlgorithm, CryptographicUsageMask, RevocationReasonCode
from kmip.pie.client import ProxyKmipClient
from support.custody.tls import Tls

_CONFIG = """[server]
hostname=127.0.0.1
port={port}
certificate_path={server}
key_path={server_key}
ca_path={ca}
auth_suite=TLS1.2
policy_path={folder}
enable_tls_client_auth=True
logging_level=WARNING
database_path={folder}/kmip.db
"""
_SERVE = "import sys; from kmip.services.server.server import main; sys.argv[0] = 'pykmip-server'; main()"


class KmipServer:
    def __init__(self, tls: Tls, folder: Path) -> None:
        self.tls = tls
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        config = folder / "server.conf"
        config.write_text(_CONFIG.format(port=self.port, folder=folder, ca=tls.ca, server=tls.server, server_key=tls.server_key))
        words = ["-f", str(config), "-l", str(folder / "server.log")]
        self._process = subprocess.Popen([sys.executable, "-c", _SERVE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"PyKMIP's server did not start: see {folder / 'server.log'}")

    def _admin(self) -> ProxyKmipClient:
        return ProxyKmipClient(hostname="127.0.0.1", port=self.port, cert=str(self.tls.client), key=str(self.tls.client_key),
                               ca=str(self.tls.ca), ssl_version="PROTOCOL_SSLv23")  # fmt: skip

    def create_key(self) -> str:
        masks = [CryptographicUsageMask.ENCRYPT, CryptographicUsageMask.DECRYPT]
        with self._admin() as admin:
            name: str = admin.create(CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=masks)
            admin.activate(name)
            return name

    def revoke(self, name: str) -> None:
        with self._admin() as admin:
            admin.revoke(RevocationReasonCode.CESSATION_OF_OPERATION, name)

    def stop(self) -> None:
        self._process.kill()  # it looks at other signals only after the next connection
        self._process.wait()
