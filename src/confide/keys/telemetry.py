"""Traces of a broker's steps to an OpenTelemetry collector (OTLP over HTTP).  Off unless the operator's settings name one.

Owns ``opentelemetry``.  A span has a name of a closed list and the attributes of :func:`attributes`, whose values are of closed lists or
numbers: no name, address, digest, token, message or secret, and no exception.  Trace contexts that clients send are not read.  A collector
that is away loses spans and holds up nobody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import urlsplit

from confide import __version__
from confide.errors import ConfigError, ExtraMissingError, leaf_of
from confide.keys.observation import ENDPOINTS, OTHER, Observation, Outcome, Step, add_observer, remove_observer

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_TIMEOUT_S: Final = 5.0
_PATH: Final = "/v1/traces"
"""OTLP/HTTP's, behind the collector's base address (OTLP specification, "OTLP/HTTP Request")."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go, and which share of requests is traced (above 0, at most 1).

    Over https the server's certificate must be under ``ca`` (a PEM file) or a public root; http is for this machine only.

    Raises:
        ConfigError: not such an address or share.
    """

    url: str
    ca: Path | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, secret, rest = parts.hostname or "", parts.username or parts.password, parts.query or parts.fragment
            _ = parts.port
        except ValueError as cause:
            raise ConfigError("traces: not an address") from cause
        if parts.scheme not in {"https", "http"} or not host or secret or rest:
            raise ConfigError("traces: not the address of a collector", hint="write https://HOST:4318")
        if parts.scheme == "http" and not _here(host):
            raise ConfigError("traces: a collector elsewhere is spoken to over https", hint="write https://HOST:4318")
        if not 0 < self.share <= 1:
            raise ConfigError("traces_share: above 0 and at most 1")

    @property
    def endpoint(self) -> str:
        """Where spans are posted."""
        return self.url.rstrip("/") + _PATH


def _here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def attributes(step: Observation) -> dict[str, str | int]:
    """All that a span says, whatever else the step holds."""
    found: dict[str, str | int] = {}
    if step.outcome in get_args(Outcome):
        found["confide.outcome"] = step.outcome
    if step.endpoint:
        found["confide.endpoint"] = step.endpoint if step.endpoint in ENDPOINTS else OTHER
    if step.code:
        found["confide.code"] = step.code if leaf_of(step.code) else OTHER
    if 100 <= step.status < 600:
        found["http.response.status_code"] = step.status
    if step.size > 0:
        found["confide.steps"] = step.size
    return found


def name_of(step: Observation) -> str:
    """A span's name."""
    if step.step == "request":
        return f"broker {step.endpoint if step.endpoint in ENDPOINTS else OTHER}"
    return step.step if step.step in get_args(Step) else OTHER


@dataclass
class _Traces:
    """An observer that makes a span of each step; steps of one request are children of its span."""

    provider: TracerProvider
    _open: threading.local = field(default_factory=threading.local)

    def begun(self, step: Observation) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415  an extra

        parent = context.Context() if step.step == "request" else context.get_current()
        kind = trace.SpanKind.SERVER if step.step == "request" else trace.SpanKind.INTERNAL
        span = self.provider.get_tracer("confide").start_span(name_of(step), context=parent, kind=kind)
        self._stack().append((span, context.attach(trace.set_span_in_context(span, parent))))

    def ended(self, step: Observation) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415  an extra

        span, token = self._stack().pop()
        context.detach(token)
        span.set_attributes(attributes(step))
        if step.outcome == "failed":
            span.set_status(trace.StatusCode.ERROR)
        span.end()

    def _stack(self) -> list[tuple[Span, Token[Context]]]:
        if not hasattr(self._open, "spans"):
            self._open.spans = []
        found: list[tuple[Span, Token[Context]]] = self._open.spans
        return found


def _refuse_environment(environ: Mapping[str, str]) -> None:
    """The library obeys dozens of variables, which say what is exported and to whom with which credentials; the settings do that here."""
    for name in environ:
        if name.startswith("OTEL_"):
            raise ConfigError(f"the environment has {name[:60]}: traces are set up in config.toml alone", hint="unset it")


def _provider(collector: Collector) -> TracerProvider:
    try:
        import requests  # noqa: PLC0415  what the exporter sends with
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
    except ImportError as cause:
        raise ExtraMissingError("OpenTelemetry is not installed", hint="pip install 'confide[telemetry]'") from cause
    session = requests.Session()
    session.trust_env = False  # no proxies, certificates or passwords of the environment
    ca = str(collector.ca) if collector.ca is not None else None
    exporter = OTLPSpanExporter(collector.endpoint, certificate_file=ca, timeout=_TIMEOUT_S, session=session)
    about = Resource({"service.name": "confide-broker", "service.version": __version__})  # nothing of the machine
    provider = TracerProvider(ParentBased(TraceIdRatioBased(collector.share)), about, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextmanager
def traced(collector: Collector | None) -> Iterator[None]:
    """Export this process's steps to ``collector`` while inside; nothing without one.

    Raises:
        ExtraMissingError: the extra is not installed.
        ConfigError: the environment says how to export.
    """
    if collector is None:
        yield
        return
    _refuse_environment(os.environ)
    provider = _provider(collector)
    traces = _Traces(provider)
    add_observer(traces)
    try:
        yield
    finally:
        remove_observer(traces)
        provider.shutdown()
