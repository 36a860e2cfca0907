"""AWS KMS as moto has it, over real HTTPS on this machine."""

from __future__ import annotations

import threading
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from support.custody.tls import Tls
from werkzeug.serving import make_server

REGION = "eu-central-1"
CREDENTIALS = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"


class AwsServer:
    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, moto, threaded=True, ssl_context=tls.for_server())
        self.endpoint = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def admin(self) -> Any:
        import boto3

        return boto3.client("kms", region_name=REGION, endpoint_url=self.endpoint, verify=str(self.tls.ca),
                            aws_access_key_id="admin", aws_secret_access_key="admin")  # fmt: skip

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
