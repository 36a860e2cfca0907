"""A node's devices for enclaves, as Intel's SGX device plugin registers them with the kubelet; behind each of them is ``/dev/null``.

Follows ``pluginregistration`` of Kubernetes' device plugin API, v1beta1, over gRPC.  Its few messages are written here by hand: what
their compiler would make is longer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

FOLDER = Path("/var/lib/kubelet/device-plugins")
RESOURCES = {"sgx.intel.com/enclave": "/dev/sgx_enclave", "sgx.intel.com/provision": "/dev/sgx_provision"}
COUNT = 20


def register() -> None:
    """Offer ``COUNT`` of each of ``RESOURCES`` to the kubelet of this machine, which must be running."""
    for number, (resource, device) in enumerate(RESOURCES.items()):
        endpoint = f"sgx-{number}.sock"
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers([_plugin(device)])
        server.add_insecure_port(f"unix://{FOLDER / endpoint}")
        server.start()
        with grpc.insecure_channel(f"unix://{FOLDER / 'kubelet.sock'}") as channel:
            call = channel.unary_unary("/v1beta1.Registration/Register")
            call(_text(1, "v1beta1") + _text(2, endpoint) + _text(3, resource), timeout=10, wait_for_ready=True)
        _servers.append(server)


_servers: list[grpc.Server] = []
"""Kept: a server whose last reference goes is stopped."""


def _plugin(device: str) -> grpc.GenericRpcHandler:
    def listed(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"".join(_field(1, _text(1, f"device-{each}") + _text(2, "Healthy")) for each in range(COUNT))
        threading.Event().wait()  # the list never changes

    def allocated(request: bytes, _context: grpc.ServicerContext) -> bytes:
        spec = _text(1, device) + _text(2, "/dev/null") + _text(3, "rw")
        return _field(1, _field(3, spec)) * _containers(request)

    handlers = {
        "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(lambda _request, _context: b""),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(listed),
        "Allocate": grpc.unary_unary_rpc_method_handler(allocated),
    }
    return grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)


def _containers(request: bytes) -> int:
    """How many containers a request to allocate is for: its fields 1, the only ones it has."""
    count, at = 0, 0
    while at < len(request):
        size, shift, at = 0, 0, at + 1
        while True:
            byte, at = request[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        count, at = count + 1, at + size
    return count


def _field(number: int, value: bytes) -> bytes:
    size, length = b"", len(value)
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())
