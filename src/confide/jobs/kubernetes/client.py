"""A cluster's API, by the official client: the one module that imports it.

Credentials and TLS are the client's.  Objects are plain JSON.  Every failure is an error of the one tree, without the
token.  The API server is not trusted with anything: what it tells is a claim.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib
import json
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from confide.crypto.timed_http import end_in_time, read_by
from confide.errors import ChannelError, ClusterRefusedError, ExtraMissingError, ProtocolError
from confide.jobs.kubernetes.api_errors import broken, clean, refusal, status_of
from confide.jobs.kubernetes.api_paths import path_of, resource_of
from confide.jobs.kubernetes.changes import Json, version_of
from confide.jobs.kubernetes.following import Log, Watch
from confide.jobs.kubernetes.forwarding import forward
from confide.jobs.kubernetes.kubeconfig import config_errors, of_context, of_pod
from confide.jobs.kubernetes.said import about, as_list, as_object, as_text, name_of

Cascade = Literal["Background", "Foreground", "Orphan"]
Objects = list[Json]

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_POD_SERVER: Final = "https://kubernetes.default.svc"
"""A fixed name, checked against the service account's CA: a pod's environment says who wrote it."""

_TIMEOUT: Final = urllib3.Timeout(connect=10, read=30)
_MOST_BODY: Final = 64 * 1024 * 1024
_BODY_S: Final = 120.0
"""For all of an answer's body, in seconds.  Watches and logs have none of it: they are meant to be long."""
_PAGE: Final = 500
_BUSY: Final = 4
"""How often a request is made that the server answers with 429: it has then done nothing."""
_LONGEST_PAUSE_S: Final = 5.0
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
# tcp(7): a connection whose other end vanished is given up after a minute.
_KEEP_ALIVE: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Cluster:
    """One cluster, seen from one namespace with one credential.  May be used by several threads."""

    def __init__(self, configuration: Any, namespace: str) -> None:
        self.namespace = namespace
        self.server = str(configuration.host)
        self._configuration = configuration
        configuration.socket_options = list(_KEEP_ALIVE)
        self._pool: urllib3.PoolManager = _library("kubernetes.client.rest").RESTClientObject(configuration).pool_manager
        end_in_time(self._pool)

    @classmethod
    def connect(cls, context: str, *, namespace: str | None = None, kubeconfig: Path | None = None) -> Self:
        """The cluster of a kubeconfig's context.  Asks it nothing yet; a credential plugin of the kubeconfig is run.

        Raises:
            ConfigError: there is no such context, it has no credential, or its server would not be authenticated.
            ExtraMissingError: the official client is not installed.
        """
        configuration, own = of_context(_library, context, kubeconfig)
        return cls(configuration, namespace or own)

    @classmethod
    def in_pod(cls, *, mount: Path = SERVICE_ACCOUNT, server: str = IN_POD_SERVER) -> Self:
        """The cluster that this process is a pod of, with the pod's service account.

        Raises:
            ConfigError: there is no service account's token.
            ExtraMissingError: the official client is not installed.
        """
        return cls(*of_pod(_library, mount, server))

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- objects ---

    def create(self, made: Json, *, dry_run: bool = False) -> Json:
        """Create an object in the namespace; it, as the cluster has completed it.  ``dry_run``: check and complete it, and keep nothing.

        Raises:
            ClusterRefusedError: no right, quota, admission, an invalid object, or (409) one of that name is there.
            UnavailableError: no answer, so it may or may not be there.
        """
        kind = str(made.get("kind"))
        named = name_of(made) or as_text(about(made).get("generateName"))
        doing = f"create the {kind} {clean(named)}".rstrip()
        query = {"dryRun": "All"} if dry_run else {}
        return self._json("POST", path_of(kind, self.namespace), doing, query=query, body=made)

    def dry_run_create(self, made: Json) -> Json:
        """What :meth:`create` would answer; nothing is kept.

        Raises:
            ClusterRefusedError: it would be refused.
            UnavailableError: no answer.
        """
        return self.create(made, dry_run=True)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> Json | None:
        """One object, or ``None`` if there is none of that name.

        Raises:
            ClusterRefusedError: no right to look.
            UnavailableError: no answer.
        """
        return self._one(kind, name, namespace, "application/json")

    def exists(self, kind: str, name: str, *, namespace: str | None = None) -> bool:
        """Whether there is one, without asking for what is in it (a Secret stays where it is).

        Raises:
            ClusterRefusedError: no right to look.
            UnavailableError: no answer.
        """
        return self._one(kind, name, namespace, _METADATA) is not None

    def list(self, kind: str, label_selector: str = "", *, field_selector: str = "", namespace: str | None = None) -> Objects:
        """All objects of a kind, in the namespace if the kind is in namespaces.

        Raises:
            ClusterRefusedError: no right to look.
            UnavailableError: no answer.
        """
        return self._listed(kind, label_selector, field_selector, namespace)[0]

    def patch(self, kind: str, name: str, patch: Json) -> Json:
        """Change an object by a JSON merge patch (RFC 7396); it, as it is then.

        Raises:
            ClusterRefusedError: no right, no such object (404), or an invalid one.
            UnavailableError: no answer, so it may or may not be changed.
        """
        path = path_of(kind, self.namespace, name)
        return self._json("PATCH", path, f"change the {kind} {name}", body=patch, content="application/merge-patch+json")

    def delete(self, kind: str, name: str, *, cascade: Cascade = "Background", grace_s: int | None = None, uid: str | None = None) -> None:
        """Delete an object and what it owns (as ``cascade`` says); return quietly if there is none.  ``uid``: only that very one.

        Raises:
            ClusterRefusedError: no right, or (409) it is not the one of that ``uid``.
            UnavailableError: no answer.
        """
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": cascade}
        options |= {"gracePeriodSeconds": grace_s} if grace_s is not None else {}
        options |= {"preconditions": {"uid": uid}} if uid is not None else {}
        try:
            self._json("DELETE", path_of(kind, self.namespace, name), f"delete the {kind} {name}", body=options)
        except ClusterRefusedError as error:
            if status_of(error) != 404:
                raise

    def watch(self, kind: str, label_selector: str = "", *, field_selector: str = "", patience_s: float = 60.0) -> Watch:
        """What there is of a kind, then each change, until it is closed.

        It goes on over lost connections and restarts of the API server that last no longer than ``patience_s``.

        Raises:
            UsageError: Confide uses no such kind.  What the server refuses is raised by the first ``next``.
        """
        path, chosen = path_of(kind, self.namespace), _selectors(label_selector, field_selector)
        what = f"changes of {resource_of(kind).plural}"

        def ask(query: Mapping[str, str], silence_s: float) -> urllib3.BaseHTTPResponse:
            return self._ask("GET", path, f"read {what}", query={**chosen, **query}, silence_s=silence_s)

        def listed() -> tuple[Objects, str]:
            return self._listed(kind, label_selector, field_selector, None)

        return Watch(ask, listed, what=what, server=self.server, patience_s=patience_s)

    # --- pods ---

    def log_lines(self, pod: str, *, follow: bool = False, since_ns: int | None = None, container: str = "node",
                  patience_s: float = 60.0) -> Log:  # fmt: skip
        """What a pod's container wrote, after ``since_ns``; with ``follow`` until it ends, over lost connections.

        The API server may end it early: see whether the pod still runs, and ask again from the last line's time.
        """
        path, what = path_of("Pod", self.namespace, pod, "log"), f"the log of the pod {pod}"

        def ask(query: Mapping[str, str], silence_s: float) -> urllib3.BaseHTTPResponse:
            return self._ask("GET", path, f"read {what}", query={"container": container, **query}, silence_s=silence_s)

        return Log(ask, what=what, server=self.server, patience_s=patience_s, follow=follow, since_ns=since_ns)

    def port_forward(self, pod: str, port: int) -> socket.socket:
        """A connection to a port of a pod, through API server and kubelet: both see every byte.  Ends if either side closes.

        Whether something listens there shows when it is used.

        Raises:
            ClusterRefusedError: no right, or no such pod.
            UnavailableError: no answer.
        """
        doing = f"connect to the port {port} of the pod {pod}"
        url = self.server + path_of("Pod", self.namespace, pod, "portforward")
        return forward(_library, self._configuration, f"{url}?ports={port}", authorization=self._authorization(doing), doing=doing)

    # --- the cluster ---

    def can_i(self, verb: str, resource: str, *, group: str = "", part: str = "", name: str = "", namespace: str | None = None) -> bool:
        """Whether this credential has a right, by the cluster's own answer.

        Raises:
            ClusterRefusedError: it does not even answer that.
            UnavailableError: no answer.
        """
        asked = {"verb": verb, "resource": resource, "group": group, "subresource": part, "name": name}
        asked["namespace"] = self.namespace if namespace is None else namespace
        review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"resourceAttributes": asked}}
        return as_object(self.create(review).get("status")).get("allowed") is True

    def version(self) -> str:
        """The API server's version, for instance ``v1.33.1``.

        Raises:
            UnavailableError: no answer.
        """
        return clean(str(self._json("GET", "/version", "ask for the version").get("gitVersion") or "unknown"))[:40]

    def server_time(self) -> datetime:
        """The API server's clock, in whole seconds (RFC 9110, ``Date``).

        Raises:
            UnavailableError: no answer, or one without a time.
        """
        doing = "ask for the time"
        answer = self._ask("GET", "/version", doing)
        with contextlib.closing(answer):
            self._read(answer, doing)
            try:
                return email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
            except (ValueError, TypeError) as cause:
                raise ProtocolError("the API server does not tell its time") from cause

    # --- requests ---

    def _one(self, kind: str, name: str, namespace: str | None, accept: str) -> Json | None:
        path = path_of(kind, self.namespace if namespace is None else namespace, name)
        try:
            return self._json("GET", path, f"look at the {kind} {name}", accept=accept)
        except ClusterRefusedError as error:
            if status_of(error) != 404:
                raise
            return None

    def _listed(self, kind: str, labels: str, fields: str, namespace: str | None) -> tuple[Objects, str]:
        """All of a kind, over all pages, and the version of the list that a watch goes on from."""
        path = path_of(kind, self.namespace if namespace is None else namespace)
        query = {**_selectors(labels, fields), "limit": str(_PAGE)}
        found: Objects = []
        while True:
            page = self._json("GET", path, f"list {resource_of(kind).plural}", query=query)
            items = as_list(page.get("items"))
            found += [{"kind": kind, "apiVersion": resource_of(kind).api, **each} for each in items if isinstance(each, dict)]
            more = about(page).get("continue")
            if not more:
                return found, version_of(page)
            query["continue"] = str(more)

    def _json(self, method: str, path: str, doing: str, *, query: Mapping[str, str] | None = None, body: Json | None = None,
              content: str = "application/json", accept: str = "application/json") -> Json:  # fmt: skip
        answer = self._ask(method, path, doing, query=query, body=body, content=content, accept=accept)
        try:
            with contextlib.closing(answer):
                found = json.loads(self._read(answer, doing))
        except ValueError as cause:
            raise ProtocolError(f"cannot {doing}: the API server answered what is no JSON") from cause
        if not isinstance(found, dict):
            raise ProtocolError(f"cannot {doing}: the API server answered what is no object")
        return found

    def _ask(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        silence_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer to one request, if it is a good one; its body is not read yet."""
        secret = self._authorization(doing)
        headers = {"Accept": accept, "User-Agent": "confide"} | ({"Authorization": secret} if secret else {})
        sent = None if body is None else json.dumps(body).encode()
        headers |= {} if sent is None else {"Content-Type": content}
        timeout = _TIMEOUT if silence_s is None else urllib3.Timeout(connect=10, read=silence_s)
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        for left in reversed(range(_BUSY)):
            try:
                answer = self._pool.request(
                    method, url, body=sent, headers=headers, timeout=timeout, retries=False, redirect=False, preload_content=False
                )
            except (HTTPError, OSError) as cause:
                raise broken(cause, doing, self.server, secret) from cause
            if 200 <= answer.status < 300:
                return answer
            with contextlib.closing(answer):
                refused = refusal(answer.status, self._read(answer, doing), doing, secret)
            if answer.status != 429 or not left:
                raise refused
            time.sleep(_pause(answer.headers.get("Retry-After")))
        raise AssertionError("not reached")  # the last round returns or raises

    def _read(self, answer: urllib3.BaseHTTPResponse, doing: str) -> bytes:
        try:
            found = read_by(answer, time.monotonic() + _BODY_S, _MOST_BODY)
        except (HTTPError, OSError) as cause:
            raise broken(cause, doing, self.server) from cause
        if len(found) > _MOST_BODY:
            raise ProtocolError(f"cannot {doing}: the API server's answer has no end")
        return found

    def _authorization(self, doing: str) -> str:
        """The ``Authorization`` header, fresh where the credential's source makes a new one; empty with a client certificate."""
        try:
            found = self._configuration.auth_settings().get("BearerToken") or {}
        except config_errors(_library) as cause:
            raise ChannelError(f"cannot {doing}: the cluster's credential cannot be renewed: {clean(str(cause))}") from cause
        return str(found.get("value") or "").strip()


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _pause(told: str | None) -> float:
    return min(float(told), _LONGEST_PAUSE_S) if told and told.isdigit() else 1.0


def _library(name: str) -> ModuleType:
    """A module of the official client, or of what it brings along; loaded when first used, because that takes a second."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise ExtraMissingError("the Kubernetes client is not installed", hint="pip install 'confide[k8s]'") from missing
