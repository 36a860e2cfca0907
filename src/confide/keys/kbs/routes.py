"""KBS protocol 0.4.0 over HTTPS: which request is which call, and how refusals look.  ``docs/reference/kbs.openapi.yaml`` has each form.

====== ===================================== ===================================== ==================================================
who    request                               body                                  answer
====== ===================================== ===================================== ==================================================
guest  POST /kbs/v0/auth                     version tee extra-params              nonce extra-params; cookie ``kbs-session-id``
guest  POST /kbs/v0/attest                   runtime-data tee-evidence init-data   token
guest  GET /kbs/v0/resource/R/T/N                                                  protected encrypted_key iv ciphertext tag
owner  POST, DELETE /kbs/v0/resource/R/T/N   the resource, as bytes                resource version
owner  POST, GET /kbs/v0/attestation-policy  policy_id policy type                 policy_id digest
owner  POST, GET /kbs/v0/resource-policy     policy                                rules
owner  POST, GET /kbs/v0/reference-value     version type payload                  references
owner  POST /confide/v0/kbs-token-keys       public_key revoked                    owner audience revoked
anyone GET /healthz, /livez, /metrics                                              status; status; text
====== ===================================== ===================================== ==================================================

Guests show no TLS key; the routes of the same name for clients that do are our own nodes' (``keys.routes``).
Refusals are RFC 7807 objects whose ``type`` is the protocol's, with our error's code beside it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final

from confide.canonical import Json
from confide.crypto.http_messages import PROBLEM_TYPE, Request, Response, problem
from confide.errors import (
    AttestationError,
    AuditError,
    BindingError,
    ClockError,
    ConfideError,
    CredentialError,
    IssuerError,
    ParseError,
    PolicyError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    ResourceDeniedError,
    ResourceMissingError,
    SealedError,
    StoreError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMisdirectedError,
    UnavailableError,
)
from confide.keys.custody.seal_state import SealableKms
from confide.keys.health import hindrance
from confide.keys.kbs.admin import Caller, KbsAdmin
from confide.keys.kbs.guests import Guests
from confide.keys.kbs.messages import COOKIE, ERRORS
from confide.keys.kbs.metrics import CONTENT_TYPE, Endpoint, Metrics
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.session_records import Guest
from confide.keys.observation import Outcome
from confide.keys.roles import has_row

if TYPE_CHECKING:
    from confide.keys.broker import Broker
    from confide.keys.sessions import Peer

PREFIX: Final = "/kbs/v0/"
RESOURCE: Final = "/kbs/v0/resource/"
_GUESTS_ONLY: Final = {PREFIX + "auth", PREFIX + "attest"}
"""Routes that exist for our own nodes too, who show a TLS key."""
_METHODS: Final = {
    **dict.fromkeys(_GUESTS_ONLY, frozenset({"POST"})),
    **dict.fromkeys((PREFIX + name for name in ("attestation-policy", "resource-policy", "reference-value")), frozenset({"GET", "POST"})),
    "/confide/v0/kbs-token-keys": frozenset({"POST"}),
    **dict.fromkeys(("/healthz", "/livez"), frozenset({"GET"})),
    "/metrics": frozenset({"GET"}),
}
_COOKIE: Final = re.compile(rf"{COOKIE}=([A-Za-z0-9_-]+)")
_BEARER: Final = re.compile(r"Bearer +([A-Za-z0-9._~+/=-]{1,65536})", re.IGNORECASE)
# The first that fits decides.  Names and statuses: "Error information" of the protocol; a malformed admin request is our 400.
_PROBLEMS: Final[tuple[tuple[tuple[type[ConfideError], ...], str, int], ...]] = (
    ((ResourceDeniedError,), "PolicyDeny", 403),
    ((ResourceMissingError,), "InvalidRequestPath", 404),
    ((StoreError, AuditError, SealedError), "PluginInternalError", 503),
    ((IssuerError,), "PluginInternalError", 424),
    ((ClockError,), "PluginInternalError", 423),
    ((CredentialError,), "AdminAuth", 401),
    ((TokenInvalidError, TokenExpiredError, TokenMisdirectedError), "TokenVerifierError", 401),
    ((PolicyError,), "PolicyEngine", 400),
    ((AttestationError,), "AttestationError", 401),
)


def takes_bytes(method: str, path: str) -> bool:
    """Whether a request's body is a resource, of any type."""
    return method == "POST" and path.startswith(RESOURCE)


class KbsRoutes:
    """Answers the requests of guests, owners as a KBS's admins, and operators; shared by all connections of a server."""

    def __init__(self, broker: Broker, connections: Callable[[], int], stopping: Callable[[], bool]) -> None:
        self._broker = broker
        self._store = broker.store
        self._guests = Guests(broker.store, broker.verifier, broker.clock, limits=broker.limits)
        self._admin = KbsAdmin(broker.store, broker.owners, broker.clock)
        self._tokens = broker.tokens
        self.metrics = Metrics()
        self._connections = connections
        self._stopping = stopping

    def handle(self, request: Request, peer: Peer) -> Response | None:
        """The answer, or ``None`` for a request that is not of this protocol.  A refusal is an answer."""
        methods = _methods(request.path)
        if request.path in _GUESTS_ONLY and peer.spki is not None:
            return None
        if not methods and not request.path.startswith(PREFIX):
            return None
        endpoint = _endpoint(request)
        outcome: Outcome = "failed"
        try:
            served = self._route(request, peer) if request.method in methods else None
            answer = served or _not_served(methods)
            outcome = "ok" if answer.status == 200 else "refused"
        except (RateLimitedError, QuotaError) as error:
            self.metrics.limited(error.code)
            answer, outcome = problem(error), "refused"
        except ConfideError as error:
            answer = _refusal(error, admin=endpoint == "admin")
            outcome = "failed" if answer.status >= 500 else "refused"
        finally:
            self.metrics.count(endpoint, outcome)
        return answer

    def _route(self, request: Request, peer: Peer) -> Response | None:
        if not has_row(request.method, request.path):
            return None
        match request.method, request.path.removeprefix(PREFIX):
            case "POST", "auth":
                name, challenge = self._guests.auth(_body(request))
                return Response(200, _cookie(name), challenge)
            case "POST", "attest":
                name = session_of(request)
                token, tee = self._guests.attest(name, _body(request), peer.address)
                self.metrics.attested(tee.value)
                return Response(200, _cookie(name), token)
            case "GET", "/healthz":
                return self._health()
            case "GET", "/livez":
                return Response(200, {}, {"status": "ok"})
            case "GET", "/metrics":
                return Response(200, {"content-type": CONTENT_TYPE}, text=self._counts())
        if request.path.startswith(RESOURCE):
            return self._resource(request, peer)
        return self._command(request, peer)

    def _health(self) -> Response:
        reason = hindrance(self._store, stopping=self._stopping())
        if reason is None:
            return Response(200, {}, {"status": "ok"})
        return _problem(UnavailableError("the broker is not ready", reason=reason), "PluginInternalError", 503)

    def _counts(self) -> str:
        sealed = isinstance(self._store.kms, SealableKms) and self._store.kms.sealed is not None
        nodes, connections = self._broker.open_sessions, self._connections()
        return self.metrics.text(sessions=self._sessions(), connections=connections, nodes=nodes, sealed=sealed)

    def _resource(self, request: Request, peer: Peer) -> Response | None:
        try:
            name = ResourceName.parse(request.path.removeprefix(RESOURCE))
        except ParseError as error:
            return _problem(error, "InvalidRequestPath", 404)
        match request.method:
            case "GET":
                guest = self._guest(request)
                if guest is None:
                    return _problem(BindingError("a resource needs a session's cookie or a token"), "TokenNotFound", 401)
                return Response(200, {}, self._guests.resource(guest, name, peer.address))
            case "POST":
                return Response(200, {}, self._admin.put_resource(self._caller(request, peer), name, request.body))
            case "DELETE":
                return Response(200, {}, self._admin.delete_resource(self._caller(request, peer), name))
        return None

    def _guest(self, request: Request) -> Guest | None:
        """Who asks: the token's guest if there is one (a wrong one is never made up for by a cookie), or the session's."""
        token = bearer_of(request)
        if token is not None:
            return self._guests.of_token(token)
        return self._guests.of_cookie(session_of(request)) if COOKIE in request.headers.get("cookie", "") else None

    def _sessions(self) -> float:
        """How many sessions guests have at all brokers of the store; no number if it does not answer: the rest is told all the same."""
        try:
            return len(self._guests.sessions)
        except (StoreError, AuditError):
            return math.nan

    def _caller(self, request: Request, peer: Peer) -> Caller:
        """Who asks as an owner: by a token of one of the broker's issuers, by one of the owner's own, or by the key that it showed."""
        token = bearer_of(request)
        if token is not None and self._tokens.takes(token):
            return Caller(self._tokens.identified(peer, token))
        return Caller(peer, token)

    def _command(self, request: Request, peer: Peer) -> Response | None:
        admin, caller = self._admin, self._caller(request, peer)
        commands: dict[tuple[str, str], Callable[[], Json]] = {
            ("POST", "/kbs/v0/attestation-policy"): lambda: admin.set_policy(caller, _body(request)),
            ("GET", "/kbs/v0/attestation-policy"): lambda: admin.policies(caller),
            ("POST", "/kbs/v0/resource-policy"): lambda: admin.set_rules(caller, _body(request)),
            ("GET", "/kbs/v0/resource-policy"): lambda: admin.rules(caller),
            ("POST", "/kbs/v0/reference-value"): lambda: admin.set_reference(caller, _body(request)),
            ("GET", "/kbs/v0/reference-value"): lambda: admin.references(caller),
            ("POST", "/confide/v0/kbs-token-keys"): lambda: admin.set_token_key(caller, _body(request)),
        }
        command = commands.get((request.method, request.path))
        return None if command is None else Response(200, {}, command())


def _endpoint(request: Request) -> Endpoint:
    """The label of a request: never what the client wrote."""
    match request.method, request.path.removeprefix(PREFIX):
        case _, "auth":
            return "auth"
        case _, "attest":
            return "attest"
        case "GET", path if path.startswith("resource/"):
            return "resource"
        case _, "/healthz":
            return "healthz"
        case _, "/livez":
            return "livez"
        case _, "/metrics":
            return "metrics"
    return "admin"


def _refusal(error: ConfideError, *, admin: bool) -> Response:
    for kinds, name, status in _PROBLEMS:
        if isinstance(error, kinds):
            return _problem(error, name, status)
    return _problem(error, "SerdeError", 400) if admin else _problem(error, "AttestationError", 401)


def _problem(error: ConfideError, name: str, status: int) -> Response:
    made = problem(error, status)
    return Response(status, {"content-type": PROBLEM_TYPE}, {**(made.json or {}), "type": ERRORS + name})


def _methods(path: str) -> frozenset[str]:
    """What may be asked of a path; nothing for one that is none of the protocol's."""
    return frozenset({"GET", "POST", "DELETE"}) if path.startswith(RESOURCE) else _METHODS.get(path, frozenset())


def _not_served(methods: frozenset[str]) -> Response:
    if not methods:
        return _problem(ProtocolError("there is no such endpoint"), "PluginNotFound", 404)
    answer = _problem(ProtocolError("this method is not served here"), "InvalidRequestPath", 405)
    return replace(answer, headers={**answer.headers, "allow": ", ".join(sorted(methods))})


def _cookie(name: str) -> dict[str, str]:
    return {"set-cookie": f"{COOKIE}={name}; Path=/; Secure; HttpOnly"}


def bearer_of(request: Request) -> str | None:
    """The bearer token, if there is an Authorization header.

    Raises:
        TokenInvalidError: the header is of another form.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    found = _BEARER.fullmatch(header.strip())
    if found is None:
        raise TokenInvalidError("the authorization is not a bearer token")
    return found.group(1)


def session_of(request: Request) -> str:
    """The session that a request's cookie names.

    Raises:
        BindingError: it names none.
    """
    header = request.headers.get("cookie", "")
    alone = _COOKIE.fullmatch(header)  # as our own clients send it; a browser may have more
    if alone is not None:
        return alone.group(1)
    cookies: SimpleCookie = SimpleCookie()
    with contextlib.suppress(CookieError):
        cookies.load(header)
    if COOKIE not in cookies:
        raise BindingError("this request needs a session", hint="begin with /kbs/v0/auth and attest")
    return cookies[COOKIE].value


def _body(request: Request) -> Json:
    if request.json is None:
        raise ParseError("this request needs a JSON body")
    return request.json
