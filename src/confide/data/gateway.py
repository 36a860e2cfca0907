"""PySpark's gateway to the driver's JVM over a unix socket.

Py4J talks TCP on loopback, in plaintext, and what a program shows (``df.show()``) passes through it; so both ends of ours use a socket in
the node's private folder (``UnixServerSocketFactory.java``).  Who may connect: processes of this user that can reach that folder
and hold the token.  The same holds for calls from the JVM into Python (``foreachBatch``, listeners written in Python), for which the
program listens on a second socket there.
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide.errors import ExtraMissingError, NodeLostError

try:
    from py4j.clientserver import ClientServer, ClientServerConnection, JavaClient, JavaParameters, PythonParameters
    from py4j.java_gateway import CallbackServer, CallbackServerParameters, JavaObject, java_import
    from py4j.protocol import REFERENCE_TYPE, register_output_converter
except ImportError as missing:
    raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'") from missing

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway

# What PySpark imports into its JVM view (pyspark.java_gateway.launch_gateway).
_IMPORTS = (
    *("org.apache.spark.SparkConf", "org.apache.spark.api.java.*", "org.apache.spark.api.python.*", "org.apache.spark.ml.python.*"),
    *("org.apache.spark.mllib.api.python.*", "org.apache.spark.resource.*", "org.apache.spark.sql.Encoders"),
    *("org.apache.spark.sql.OnSuccessCall", "org.apache.spark.sql.functions", "org.apache.spark.sql.classic.*"),
    *("org.apache.spark.sql.api.python.*", "scala.Tuple2"),
)
_POLL_S = 0.02
CALLBACK_SOCKET = "callback.sock"
"""Unix socket of the program for calls from the JVM, beside the JVM's own."""


class _UnixConnection(ClientServerConnection):  # type: ignore[misc]  # py4j is untyped
    def connect_to_java_server(self) -> None:
        """Connect and show the token; the parent class does the same over TCP."""
        try:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.connect(self.java_parameters.address)
            self.stream = self.socket.makefile("rb")
            self.is_connected = True
            self.initiated_from_client = True
            self._authenticate_connection()
        except BaseException:
            self.close(reset=True)
            self.is_connected = False
            raise


class _UnixClient(JavaClient):  # type: ignore[misc]
    def _create_new_connection(self) -> _UnixConnection:
        connection = _UnixConnection(self.java_parameters, self.python_parameters, self.gateway_property, self)
        connection.connect_to_java_server()
        self.set_thread_connection(connection)
        return connection


class _UnixGateway(ClientServer):  # type: ignore[misc]
    def _create_gateway_client(self) -> _UnixClient:
        return _UnixClient(self.java_parameters, self.python_parameters, finalizer_deque=self._create_finalizer_worker())

    def listen(self, path: Path, token: str) -> None:
        """Serve calls from the JVM.  PySpark starts a server of its own, on TCP, only where there is none yet."""
        parameters = CallbackServerParameters(address=str(path), port=0, daemonize=True, daemonize_connections=True, auth_token=token)
        self._callback_server = _UnixCallbackServer(self.gateway_property.pool, self._gateway_client, callback_server_parameters=parameters)
        self._callback_server.start()


class _UnixCallbackServer(CallbackServer):  # type: ignore[misc]
    def start(self) -> None:
        """Listen on the unix socket at ``address``, on a thread of its own; the parent class does the same over TCP."""
        path = Path(self.address)
        path.unlink(missing_ok=True)  # of a program of this node that ended before
        self.server_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server_socket.bind(self.address)
        path.chmod(0o600)
        self.server_socket.listen()
        self.thread = threading.Thread(target=self.run, name="confide-callbacks", daemon=True)
        self.thread.start()


class _Reference(JavaObject):  # type: ignore[misc]
    """A Java object that the JVM may free as soon as Python drops the last reference.

    Py4J's own keeps each method that was used, and the method its object: a cycle, so that a DataFrame nobody has any more holds its
    broadcast tables, in the driver's memory and in all executors', until Python next looks for cycles in everything it has.  To Python
    it is a few hundred bytes: that is many queries later.
    """

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        self._methods.pop(name, None)
        return found


def connect(path: Path, token: str, *, timeout_s: float = 60.0) -> JavaGateway:
    """A gateway over the socket at ``path``; waits until the JVM has made it.

    Raises:
        NodeLostError: the socket did not appear in time.
    """
    end = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > end:
            raise NodeLostError("Spark's driver did not start in time", waited_s=timeout_s)
        time.sleep(_POLL_S)
    register_output_converter(REFERENCE_TYPE, _Reference)
    gateway: Any = _UnixGateway(
        java_parameters=JavaParameters(address=str(path), port=0, auth_token=token, auto_convert=True),
        python_parameters=PythonParameters(port=0, eager_load=False),
    )
    gateway.proc = None
    gateway.listen(path.with_name(CALLBACK_SOCKET), token)
    for name in _IMPORTS:
        java_import(gateway.jvm, name)
    return gateway
