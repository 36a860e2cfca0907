"""What a broker counts for its operator, in the text format of Prometheus.  No names, no digests, no secrets: labels are closed lists.

Owns ``prometheus_client``.
"""

from __future__ import annotations

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Endpoint = Literal["auth", "attest", "resource", "admin", "healthz", "metrics"]
Outcome = Literal["ok", "refused", "failed"]
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["endpoint", "outcome"]
        self._requests = Counter("confide_kbs_requests", "Requests of guests, owners and operators.", labels, registry=self._registry)
        self._attested = Counter("confide_kbs_attested", "Guests whose evidence was accepted.", ["tee"], registry=self._registry)
        self._sessions = Gauge("confide_kbs_sessions", "Sessions of guests in memory.", registry=self._registry)
        self._connections = Gauge("confide_broker_connections", "Connections that are being served.", registry=self._registry)

    def count(self, endpoint: Endpoint, outcome: Outcome) -> None:
        """One request has been answered."""
        self._requests.labels(endpoint, outcome).inc()

    def attested(self, tee: str) -> None:
        """A guest of one of the known kinds was attested."""
        self._attested.labels(tee).inc()

    def text(self, *, sessions: int, connections: int) -> str:
        """Everything, as Prometheus reads it."""
        self._sessions.set(sessions)
        self._connections.set(connections)
        return generate_latest(self._registry).decode()
