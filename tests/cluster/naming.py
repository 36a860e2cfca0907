"""Names of a test cluster's services: a hosts file for dnsmasq, written whenever endpoints or services change.

As Kubernetes' DNS specification has it: a service with an address of its own is named by that, a headless one by its endpoints, of which
only those count that are ready (or that the service wants published anyway: the endpoints' controller says so by listing them as ready).
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from cluster.asking import Asking

_DOMAIN = "svc.cluster.local"
_SILENCE_S = 600.0


class Names:
    """Keeps ``hosts`` current and tells ``server`` (dnsmasq) of every change."""

    def __init__(self, asking: Asking, hosts: Path, server: subprocess.Popen[bytes]) -> None:
        self._asking, self._hosts, self._server = asking, hosts, server
        self._found: dict[str, dict[str, Any]] = {"services": {}, "endpoints": {}}
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Begin; ends with the process."""
        for kind in self._found:
            threading.Thread(target=self._follow, args=(kind,), daemon=True).start()

    def _follow(self, kind: str) -> None:
        path = f"/api/v1/{kind}"
        while True:
            try:
                listed = self._asking.get(path)
                self._change(kind, {_key(each): each for each in listed["items"]})
                since = listed["metadata"]["resourceVersion"]
                for event in self._asking.lines(f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=300", _SILENCE_S):
                    if event["type"] == "ERROR":
                        break
                    rest = {key: each for key, each in self._found[kind].items() if key != _key(event["object"])}
                    self._change(kind, rest if event["type"] == "DELETED" else {**rest, _key(event["object"]): event["object"]})
            except (OSError, ValueError):
                time.sleep(0.3)  # the API server is being restarted

    def _change(self, kind: str, objects: dict[str, Any]) -> None:
        with self._lock:
            before = hosts_of(**self._found)
            self._found[kind] = objects
            after = hosts_of(**self._found)
            if after != before:
                self._hosts.write_text(after)
                self._server.send_signal(signal.SIGHUP)


def hosts_of(services: dict[str, Any], endpoints: dict[str, Any]) -> str:
    """The lines of a hosts file."""
    lines = set()
    for key, service in services.items():
        name, address = f"{service['metadata']['name']}.{service['metadata']['namespace']}.{_DOMAIN}", service["spec"].get("clusterIP")
        if address not in {None, "", "None"}:
            lines.add(f"{address} {name}\n")
            continue
        for part in endpoints.get(key, {}).get("subsets") or []:
            for each in part.get("addresses") or []:
                lines.add(f"{each['ip']} {name}\n")
                if each.get("hostname"):
                    lines.add(f"{each['ip']} {each['hostname']}.{name}\n")
    return "".join(sorted(lines))


def _key(found: Any) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"
