"""The broker's requests: routes of the KBS handshake, of nodes' requests and of owners' commands.

====== ============================== ================================ ======================================================
who    request                        body                             answer
====== ============================== ================================ ======================================================
node   POST /kbs/v0/auth              version tee extra-params         nonce extra-params; cookie ``kbs-session-id``
node   POST /kbs/v0/attest            runtime-data tee-evidence        token expires
node   POST /confide/v0/release       manifest purpose signatures      jwe key version dataset expires grants
                                                                       policies
node   POST /confide/v0/releases      manifests purpose signatures     jwe (of all keys) releases: [key version dataset
                                      groups                           expires grants] policies; of all or of none
node   POST /confide/v0/outputs       name inputs recipients; parent   as release; wrapped signer recipients inherits
                                      signatures newest
node   PUT …/datasets/<id>/manifest   manifest; announce               dataset snapshot (outputs of the node's own run)
node   POST /confide/v0/cut-off       node                           node
node   POST /confide/v0/watch         (empty object)                   withdrawn (an error; empty after 25 s of none)
both   POST /confide/v0/audit-head    (empty object)                   head
owner  POST /confide/v0/enrol         owner token                      owner spki
owner  GET /confide/v0/keys                                            keys: [key version created datasets versions]
owner  POST /confide/v0/keys          key                              key version created datasets versions
owner  POST …/keys/rotate             key                              as keys
owner  POST …/keys/retire             key version                      as keys
owner  POST …/keys/destroy            key version lose_datasets        as keys
owner  POST …/keys/rewrap             key                              key version done left
owner  POST /confide/v0/datasets      key                              dataset key version wrapped dataset_key
owner  PUT …/datasets/<id>/manifest   manifest                         dataset snapshot
owner  POST …/datasets/wrapped-form   manifest; group                  dataset key version wrapped
owner  POST /confide/v0/open          manifest; group                  dataset key version dataset_key expires
owner  GET /confide/v0/grants                                          grants: [grant] standings rules changes departures
owner  POST /confide/v0/grants        key job policy roles purposes    grant standing
                                      recipients not_after; signer
                                      not_before max_runs
owner  DELETE …/grants/<id>                                            grant standing (the key's approvers too)
owner  POST /confide/v0/approvers     key threshold approvers          rule changes (those that wait)
owner  POST …/approvals/vote          subject verdict envelope         grant, change or departure, standing
owner  POST …/approvals/take-back     subject                          grant, change or departure, standing
owner  POST /confide/v0/audit         first limit                      entries head
owner  POST …/audit/proof             seq                              proof
owner  POST …/audit/consistency       old new                          proof
owner  …/escrow, …/datasets/adopt                                      ``keys.escrow_routes``
owner  …/export, import, wrapping-key                                  ``keys.transfer_routes``
oper.  …/operator, …/token-links                                       ``keys.operator_routes`` (links: everybody's own)
owner  GET /page/NAME                                                  HTML (``keys.page``)
====== ============================== ================================ ======================================================

A node's requests after ``auth`` carry the cookie, which counts on its own connection only.  Answers have status 200; refusals are
RFC 7807 problems with our error's code.  ``runtime-data`` holds nonce, tee-pubkey (a JWK), confide-context and role; ``tee-evidence``
holds primary_evidence (our evidence JSON) and an empty additional_evidence.  Clients that show no TLS key are guests, whose requests
are in ``keys.kbs.routes``.

Who may ask for what is decided by the broker; what is not in ``keys.roles.ROUTES`` is not served.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from confide.canonical import Json
from confide.crypto.http_messages import Request, Response, problem
from confide.errors import ParseError, ProtocolError, QuotaError, RateLimitedError
from confide.ids import DatasetId, Purpose
from confide.keys.broker import Broker
from confide.keys.column_groups import asked_groups
from confide.keys.escrow_routes import escrow_route
from confide.keys.fields import body as _body
from confide.keys.fields import list_ as _list
from confide.keys.fields import number as _number
from confide.keys.fields import object_ as _object
from confide.keys.fields import optional_text as _optional_text
from confide.keys.fields import signatures as _signatures
from confide.keys.fields import text as _text
from confide.keys.fields import texts as _texts
from confide.keys.kbs.messages import COOKIE
from confide.keys.kbs.routes import KbsRoutes, bearer_of, session_of
from confide.keys.observation import endpoint_of, observed
from confide.keys.operator_routes import operator_route
from confide.keys.page.routes import serve_page
from confide.keys.readings import Reading
from confide.keys.roles import has_row
from confide.keys.sessions import Peer
from confide.keys.transfer_routes import transfer_route

_PATH: Final = re.compile(r"/confide/v0/(datasets|grants)/([0-9a-f]{16,32})(/[a-z]+)?")
_ALWAYS: Final = frozenset({"/healthz", "/livez", "/metrics"})
_SIGNATURES: Final = frozenset({"signatures"})

Answer = Json | tuple[Json, dict[str, str]]


class Routes:
    """Turns the requests of one connection into calls of the broker."""

    def __init__(self, broker: Broker, peer: Peer, kbs: KbsRoutes, *, going: Callable[[], bool]) -> None:
        self._broker = broker
        self._peer = peer
        self._kbs = kbs
        self._going = going
        self._of_nodes: dict[str, Callable[[Request], Json]] = {
            "/confide/v0/audit-head": self._audit_head,
            "/confide/v0/release": self._release,
            "/confide/v0/releases": self._releases,
            "/confide/v0/outputs": self._output,
            "/confide/v0/cut-off": self._cut_off,
            "/confide/v0/watch": self._watch,
        }

    def handle(self, request: Request) -> Response:
        """Answer one request.  Refusals leave as problem objects (``crypto.http``).

        Raises:
            ConfideError: the refusal.
        """
        with observed("request", endpoint=endpoint_of(request.path)) as seen:
            try:
                self._check_rate(request)
                response = self._answer(request)
            except (RateLimitedError, QuotaError) as error:
                self._kbs.metrics.limited(error.code)
                raise
            seen.answered(response.status, (response.json or {}).get("code"))
            return response

    def _check_rate(self, request: Request) -> None:
        """A client is known by its key, or, if it shows none, by its address.  Health can always be asked for."""
        if request.path not in _ALWAYS:
            self._broker.limits.client(self._peer.spki or self._peer.address.encode())

    def _answer(self, request: Request) -> Response:
        told = serve_page(self._broker, request, self._peer) or self._kbs.handle(request, self._peer)
        if told is not None:
            return told
        token = bearer_of(request)
        if token is None:
            return self.answer(request)
        named = self._broker.tokens.identified(self._peer, token)
        return Routes(self._broker, named, self._kbs, going=self._going).answer(request)

    def answer(self, request: Request) -> Response:
        """Answer a request that is not a guest's, of whom the peer is.  Raises as :meth:`handle`."""
        answer = self._route(request) if has_row(request.method, request.path.rstrip("/")) else None
        if answer is None:
            return problem(ProtocolError("there is no such endpoint"), 404)
        body, headers = answer if isinstance(answer, tuple) else (answer, {})
        return Response(200, headers, body)

    def _route(self, request: Request) -> Answer | None:
        match request.method, request.path.rstrip("/"):
            case "POST", "/kbs/v0/auth":
                name, body = self._broker.auth(self._peer, _body(request))
                return body, {"set-cookie": f"{COOKIE}={name}; Path=/; Secure; HttpOnly"}
            case "POST", "/kbs/v0/attest":
                return self._broker.attest(self._peer, session_of(request), _body(request))
            case "POST", path if path in self._of_nodes:
                return self._of_nodes[path](request)
        for route in (escrow_route, transfer_route, operator_route):
            found = route(self._broker, self._peer, request)
            if found is not None:
                return found
        return self._owner_route(request) or self._named(request)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _release(self, request: Request) -> Json:
        match _body(request):
            case {"manifest": dict(manifest), "purpose": str(purpose), **rest} if purpose in set(Purpose) and set(rest) <= _SIGNATURES:
                return self._broker.release(self._peer, session_of(request), manifest, Purpose(purpose), signatures=_signatures(rest))
        raise ParseError("not a release request")

    def _releases(self, request: Request) -> Json:
        match _body(request):
            case {"manifests": list(manifests), "purpose": str(purpose), **rest} if purpose in set(Purpose) and set(rest) <= _SIGNATURES | {
                "groups"
            }:
                if all(isinstance(manifest, dict) for manifest in manifests):
                    session, shown = session_of(request), {"signatures": _signatures(rest)}
                    groups = asked_groups(rest.get("groups"), manifests)
                    return self._broker.releases(self._peer, session, manifests, Purpose(purpose), groups=groups, **shown)
        raise ParseError("not a request for several releases")

    def _output(self, request: Request) -> Json:
        match _body(request):
            case {"name": str(name), "inputs": list(inputs), "recipients": list(wanted), **rest} if _texts(inputs, wanted) and set(
                rest
            ) <= _SIGNATURES | {"newest", "parent"}:
                newest = [Reading.from_json(one) for one in _list(request, "newest")] if "newest" in rest else []
                parent, signed = _object(request, "parent") if "parent" in rest else None, _signatures(rest)
                return self._broker.output(
                    self._peer, session_of(request), name, inputs, wanted, newest=newest, parent=parent, signatures=signed
                )
        raise ParseError("not a request for an output's key")

    def _cut_off(self, request: Request) -> Json:
        match _body(request):
            case {"node": str(node), **rest} if not rest:
                return self._broker.cut_off(self._peer, session_of(request), node)
        raise ParseError("not a request to cut off a node")

    def _watch(self, request: Request) -> Json:
        if _body(request):
            raise ParseError("a request to wait for withdrawals says nothing")
        return self._broker.watch(self._peer, session_of(request), going=self._going)

    def _audit_head(self, request: Request) -> Json:
        if COOKIE in request.headers.get("cookie", ""):
            return self._broker.audit_head(self._peer, session_of(request))
        return self._broker.owners.audit_head(self._peer)

    # --- owners ------------------------------------------------------------------------------------------------------

    def _owner_route(self, request: Request) -> Json | None:
        owners, keys, grants, peer = self._broker.owners, self._broker.key_commands, self._broker.grants, self._peer
        commands: dict[tuple[str, str], Callable[[], Json]] = {
            ("POST", "enrol"): lambda: owners.enrol(peer, _text(request, "owner"), _text(request, "token")),
            ("POST", "keys"): lambda: keys.create_key(peer, _text(request, "key")),
            ("POST", "keys/rotate"): lambda: keys.rotate_key(peer, _text(request, "key")),
            ("POST", "keys/retire"): lambda: keys.retire_key(peer, _text(request, "key"), _number(request, "version")),
            ("POST", "keys/destroy"): lambda: self._destroy(request),
            ("POST", "keys/rewrap"): lambda: keys.rewrap(peer, _text(request, "key")),
            ("GET", "keys"): lambda: keys.keys(peer),
            ("POST", "datasets"): lambda: owners.mint_dataset(peer, _text(request, "key")),
            ("POST", "datasets/wrapped-form"): lambda: owners.wrapped_form(
                peer, _object(request, "manifest"), _optional_text(request, "group")
            ),
            ("POST", "open"): lambda: owners.open(peer, _object(request, "manifest"), _optional_text(request, "group")),
            ("POST", "grants"): lambda: grants.grant(peer, _body(request)),
            ("GET", "grants"): lambda: grants.grants(peer),
            ("POST", "approvers"): lambda: grants.set_approvers(
                peer, _text(request, "key"), _number(request, "threshold"), _list(request, "approvers")
            ),
            ("POST", "approvals/vote"): lambda: grants.vote(
                peer, _text(request, "subject"), _text(request, "verdict"), _object(request, "envelope")
            ),
            ("POST", "approvals/take-back"): lambda: grants.take_back(peer, _text(request, "subject")),
            ("POST", "audit"): lambda: owners.audit(peer, _number(request, "first"), _number(request, "limit")),
            ("POST", "audit/proof"): lambda: owners.audit_proof(peer, _number(request, "seq")),
            ("POST", "audit/consistency"): lambda: owners.audit_consistency(peer, _number(request, "old"), _number(request, "new")),
        }
        prefix, path = "/confide/v0/", request.path.rstrip("/")
        command = commands.get((request.method, path.removeprefix(prefix))) if path.startswith(prefix) else None
        return command() if command else None

    def _destroy(self, request: Request) -> Json:
        match _body(request):
            case {"key": str(key), "version": int(version), "lose_datasets": bool(lose), **rest} if not rest and version is not True:
                return self._broker.key_commands.destroy_key(self._peer, key, version, lose_datasets=lose)
        raise ParseError("not a request to destroy a key version")

    def _named(self, request: Request) -> Json | None:
        """Requests that name a dataset or grant in the path."""
        found = _PATH.fullmatch(request.path)
        match (request.method, *found.groups()) if found else ():
            case "PUT", "datasets", str(dataset), "/manifest":
                manifest = _object(request, "manifest")
                if COOKIE in request.headers.get("cookie", ""):
                    announce = _body(request).get("announce", False) is True
                    return self._broker.register_output(self._peer, session_of(request), DatasetId(dataset), manifest, announce=announce)
                return self._broker.owners.register_manifest(self._peer, DatasetId(dataset), manifest)
            case "DELETE", "grants", str(grant), None:
                return self._broker.grants.revoke(self._peer, grant)
        return None
