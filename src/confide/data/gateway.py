"""PySpark's gateway to the driver's JVM over a unix socket.

Py4J talks TCP on loopback, in plaintext, and what a program shows (``df.show()``) passes through it; so both ends of ours use a socket in
the node's private folder (``UnixServerSocketFactory.java``).  Who may connect: processes of this user that can reach that folder
and hold the token.  Calls from the JVM into Python (``foreachBatch``, listeners written in Python) would need Py4J's second, TCP
channel and are refused.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from confide.errors import ExtraMissingError, NodeLostError, UsageError

try:
    from py4j.clientserver import ClientServer, ClientServerConnection, JavaClient, JavaParameters, PythonParameters
    from py4j.java_gateway import java_import
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

    def start_callback_server(self, *_: object, **__: object) -> NoReturn:
        raise UsageError("calls from Spark's JVM into Python are not available here", hint="foreachBatch and Python listeners need them")


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
    gateway: Any = _UnixGateway(
        java_parameters=JavaParameters(address=str(path), port=0, auth_token=token, auto_convert=True),
        python_parameters=PythonParameters(port=0, eager_load=False),
    )
    gateway.proc = None
    for name in _IMPORTS:
        java_import(gateway.jvm, name)
    return gateway
