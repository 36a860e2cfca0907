"""What went wrong at an API server, as errors of the one tree.  Pure: an answer or an exception in, an error out.

The server's words are printed, cut short, without control characters and without the token that it was shown; nothing acts on them.
"""

from __future__ import annotations

import json
import re
from typing import Final

import urllib3.exceptions as transport

from confide.errors import ChannelError, ChannelTimeoutError, ClusterRefusedError, ConfideError, UnavailableError

_MOST_WORDS: Final = 700
GONE: Final = 410
"""Status of a watch whose starting point the server no longer has ("Kubernetes API Concepts, 410 Gone responses")."""

_LOG_IN: Final = "log in to the cluster again: `kubectl --context CONTEXT auth whoami` says whom it takes you for"
_QUOTA: Final = "the namespace's quota is used up: wait for other runs, ask for fewer or smaller nodes, or have it raised"
_LEVEL: Final = "the namespace's pod security level refuses the pod: `restricted` is enough for runs, unless their profile has host paths"
_RIGHTS: Final = "ask for the role `confide-submitter` in the namespace (the chart deploy/helm/confide-namespace makes it)"
_HINTS: Final = {
    401: _LOG_IN,
    404: "see that the namespace exists, and that the cluster has what the message names",
    409: "an object of that name is there, or was changed meanwhile",
    422: "the cluster takes no such object: the message says which field of it, which comes from the profile or the job",
}


def clean(text: str, secret: str = "") -> str:
    """``text`` from outside as it may be shown: one line, not long, without ``secret``."""
    shown = text
    for part in {secret, secret.partition(" ")[2].strip()}:
        shown = shown.replace(part, "(removed)") if len(part) > 3 else shown
    return re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", shown).strip()[:_MOST_WORDS]


def status_of(error: ConfideError) -> int | None:
    """The HTTP status that an API server refused with, or ``None``."""
    status = error.facts.get("status")
    return status if isinstance(status, int) else None


def refusal(status: int, body: bytes, doing: str, secret: str = "") -> ConfideError:
    """The error for an answer of ``status``, whose body is a ``Status`` object or anything."""
    reason, words = _words(body, secret)
    if status >= 500 or status in {408, 429}:
        hint = "it is starting, overloaded or ill: try again; `kubectl get --raw /readyz?verbose` says more"
        return UnavailableError(f"cannot {doing}: the API server answered {status}: {words}", hint=hint, status=status, reason=reason)
    return ClusterRefusedError(f"the cluster refused to {doing}: {words}", hint=_hint(status, words), status=status, reason=reason)


def _hint(status: int, words: str) -> str:
    if status == 403:
        return _QUOTA if "exceeded quota" in words else _LEVEL if "violates PodSecurity" in words else _RIGHTS
    return _HINTS.get(status, "see the message of the API server")


def _words(body: bytes, secret: str) -> tuple[str, str]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("kind") == "Status":
        reason, words = found.get("reason"), found.get("message")
        return clean(str(reason or "Unknown"), secret)[:80], clean(str(words or "it gives no reason"), secret)
    return "Unknown", clean(body[:2000].decode("utf-8", "replace"), secret) or "it gives no reason"


def broken(error: Exception, doing: str, server: str, secret: str = "") -> UnavailableError:
    """The error for a request that got no answer: ``error`` is of urllib3, of a socket or of TLS."""
    words = clean(str(error), secret)
    if isinstance(error, transport.SSLError) or "CERTIFICATE_VERIFY_FAILED" in words:
        hint = "its certificate must go back to the kubeconfig's `certificate-authority`: get the kubeconfig anew from who runs the cluster"
        return ChannelError(f"cannot {doing}: no TLS with the API server {server}: {words}", hint=hint)
    reach = "see that the address is right, the cluster runs, and it can be reached from here (VPN, firewall, proxy)"
    if isinstance(error, transport.NewConnectionError | transport.ProxyError | ConnectionRefusedError):
        return UnavailableError(f"cannot {doing}: the API server {server} cannot be reached: {words}", hint=reach)
    if isinstance(error, transport.TimeoutError | TimeoutError):
        return ChannelTimeoutError(f"cannot {doing}: the API server {server} did not answer in time", hint=reach)
    return ChannelError(f"cannot {doing}: the connection to the API server {server} broke: {words}", hint=reach)
