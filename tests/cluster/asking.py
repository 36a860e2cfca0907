"""Questions to a test cluster's API server with a kubeconfig of its own making: what the tests' client is not needed for."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_KINDS = {"POST": "application/json", "PATCH": "application/json-patch+json"}


class Asking:
    """Speaks to the API server as the user of a kubeconfig.  Every question raises OSError when there is no answer, or a refusal."""

    def __init__(self, kubeconfig: Path) -> None:
        found = yaml.safe_load(kubeconfig.read_text())
        server = found["clusters"][0]["cluster"]
        self._server = server["server"]
        self._token = found["users"][0]["user"]["token"]
        self._context = ssl.create_default_context(cafile=server["certificate-authority"])

    def text(self, path: str) -> str:
        """What is at a path."""
        with self._open("GET", path, None, 10) as answer:
            return answer.read().decode()

    def get(self, path: str) -> Any:
        """An object or a list."""
        return json.loads(self.text(path))

    def post(self, path: str, body: Any) -> Any:
        """Create something; as it was made."""
        with self._open("POST", path, body, 10) as answer:
            return json.loads(answer.read())

    def patch(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Change an object by operations of JSON Patch (RFC 6902)."""
        with self._open("PATCH", path, operations, 10) as answer:
            answer.read()

    def lines(self, path: str, silence_s: float) -> Iterator[Any]:
        """The events of a watch, until it ends."""
        with self._open("GET", path, None, silence_s) as answer:
            for line in answer:
                yield json.loads(line)

    def _open(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": _KINDS.get(method, "application/json")}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data=data, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=timeout_s, context=self._context)
