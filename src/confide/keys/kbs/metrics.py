"""What a broker counts for its operator, in the text format of Prometheus.  No names, no digests, no secrets: labels are closed lists.

Owns ``prometheus_client``.
"""

from __future__ import annotations

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from confide.errors import leaf_of
from confide.keys.observation import OTHER, Observation, Outcome

Endpoint = Literal["auth", "attest", "resource", "admin", "healthz", "livez", "metrics"]
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server, in a registry of their own; an observer of the process's steps."""

    def __init__(self) -> None:
        made = self._registry = CollectorRegistry()
        labels = ["endpoint", "outcome"]
        self._kbs_requests = Counter("confide_kbs_requests", "Requests of guests, owners and operators.", labels, registry=made)
        self._attested = Counter("confide_kbs_attested", "Guests whose evidence was accepted.", ["tee"], registry=made)
        self._limited = Counter("confide_broker_limited", "Requests over a rate or quota.", ["code"], registry=made)
        self._sessions = Gauge("confide_kbs_sessions", "Sessions of guests at all brokers of this store.", registry=made)
        self._connections = Gauge("confide_broker_connections", "Connections that are being served.", registry=made)
        self._nodes = Gauge("confide_broker_sessions", "Sessions of nodes in memory.", registry=made)
        self._sealed = Gauge("confide_broker_sealed", "1 while the custody has taken the master key back.", registry=made)
        self._requests = Counter("confide_broker_requests", "All requests.", labels, registry=made)
        self._latency = Histogram("confide_broker_request_seconds", "Time to answer.", ["endpoint"], buckets=_SECONDS, registry=made)
        self._refusals = Counter("confide_broker_refusals", "Requests that were refused or failed.", ["code"], registry=made)
        self._commits = Counter("confide_broker_store_commits", "Commits of the store.", ["outcome"], registry=made)
        self._steps = Counter("confide_broker_store_steps", "Steps in those commits.", registry=made)
        self._commit_time = Histogram("confide_broker_store_commit_seconds", "Time of a commit.", buckets=_SECONDS, registry=made)
        self._of_requests: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        """The series of each endpoint and outcome, found once: both are of closed lists."""
        self._custody = Counter("confide_broker_custody_checks", "Questions to the custody of the master key.", ["outcome"], registry=made)

    def count(self, endpoint: Endpoint, outcome: Outcome) -> None:
        """One request of the KBS protocol, or an operator's, has been answered."""
        self._kbs_requests.labels(endpoint, outcome).inc()

    def attested(self, tee: str) -> None:
        """A guest of one of the known kinds was attested."""
        self._attested.labels(tee).inc()

    def limited(self, code: str) -> None:
        """A request was refused with one of the two codes of limits."""
        self._limited.labels(code).inc()

    def begun(self, step: Observation) -> None:
        """See :class:`~confide.keys.observation.Observer`."""

    def ended(self, step: Observation) -> None:
        """See :class:`~confide.keys.observation.Observer`."""
        match step.step:
            case "request":
                series = self._of_requests.get((step.endpoint, step.outcome)) or self._found(step.endpoint, step.outcome)
                series[0].inc()
                series[1].observe(step.seconds)
                if step.outcome != "ok":
                    self._refusals.labels(step.code if leaf_of(step.code) else OTHER).inc()
            case "store-commit":
                self._commits.labels(step.outcome).inc()
                self._steps.inc(step.size)
                self._commit_time.observe(step.seconds)
            case "custody-check":
                self._custody.labels(step.outcome).inc()

    def _found(self, endpoint: str, outcome: str) -> tuple[Counter, Histogram]:
        found = self._requests.labels(endpoint, outcome), self._latency.labels(endpoint)
        self._of_requests[endpoint, outcome] = found
        return found

    def text(self, *, sessions: float, connections: int, nodes: int, sealed: bool) -> str:
        """Everything, as Prometheus reads it."""
        self._sessions.set(sessions)
        self._connections.set(connections)
        self._nodes.set(nodes)
        self._sealed.set(sealed)
        return generate_latest(self._registry).decode()
