"""A real OTLP/HTTP receiver on loopback: keeps what was posted, as bytes and as spans."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.heads.append(f"{self.path}\n{self.headers}")
                kept.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        return [span for one in requests for found in one.resource_spans for scope in found.scope_spans for span in scope.spans]

    @property
    def resources(self) -> list[dict[str, str]]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        return [{a.key: a.value.string_value for a in found.resource.attributes} for one in requests for found in one.resource_spans]

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + 20
        while not any(span.name == name for span in self.spans):
            assert time.monotonic() < end, f"no span {name}"
            time.sleep(0.05)


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
