"""The companion: the owner's own side of the pages, on loopback.

It shows the broker's pages through the owner's pinned connection, and does itself what needs the owner's key or must not be believed:

* *Confirm and sign.*  What is to be approved, rejected or ended is fetched anew and rendered here, not by the broker; what is signed is
  the subject whose digest stood in the form, computed here from what the broker says it is at the moment of signing.
* *Verify.*  The audit log's tree, head and continuation since the session began are checked here.

The broker's HTML is shown under a policy that lets it run, load and send nothing.  Nothing is written to disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from confide.crypto.http_messages import Request, Response, problem
from confide.errors import ConfideError, CredentialError, ResourceMissingError, UsageError
from confide.keys.audit import AuditHead
from confide.keys.audit_table import csv_lines, row_of
from confide.keys.client import OwnerClient
from confide.keys.grant_client import ChangeView, DepartureView, GrantView, StandingView, View
from confide.keys.page.admission import Admission
from confide.keys.page.forms import ACTIONS, Action, Forms, Shown, read_code
from confide.keys.page.pages import PAGES
from confide.keys.page.policy_words import lines_of, weakened
from confide.keys.page.render import Page, check_ready, link, render, style, text_file

_ALLOWED: Final = ("GET", "POST")


class Companion:
    """Answers one browser.  ``client`` is the owner's connection; ``name`` whose it is."""

    def __init__(self, client: OwnerClient, name: str, admission: Admission, clock: Callable[[], datetime]) -> None:
        """Begin: the log's head as of now is what :meth:`_verify` checks that the log continues.

        Raises:
            ConfideError: the broker does not know the credential, or cannot be reached.
            ExtraMissingError: pages cannot be made here.
        """
        check_ready()
        self._client = client
        self._name = name
        self._admission = admission
        self._clock = clock
        self._forms = Forms()
        self._turn = threading.Lock()
        self._seen = AuditHead.verify(client.audit_head(), client.broker_key())

    def handle(self, request: Request) -> Response:
        """The answer to one request; refusals are pages too."""
        with self._turn:  # the owner's connection serves one request at a time
            try:
                name = self._door(request)
            except ConfideError as error:  # nobody is admitted yet: not even whose companion this is is said
                return Page(render("turned-away", here="", who="", error=error), problem(error).status).response()
            try:
                return name if isinstance(name, Response) else self._route(name, request)
            except ConfideError as error:
                return self._page("refusal", error=error, status=problem(error).status).response()

    def _door(self, request: Request) -> Response | str:
        """The answer to somebody who is not admitted, or the page that the admitted browser asks for."""
        if request.method not in _ALLOWED:
            raise ResourceMissingError("the companion does not do this")
        self._admission.check_origin(request)
        match request.method, request.path:
            case "GET", "/":
                return Page(render("entry", here="", who="")).response()
            case "GET", "/page.css":
                return style()
            case "GET", "/start":
                return self._admit(request.query.get("code", ""))
            case "POST", "/start":
                return self._admit(read_code(request.body))
        return self._admission.check_admitted(request)

    def _route(self, name: str, request: Request) -> Response:
        action = next((one for one in ACTIONS if one == name), None)
        if request.method == "POST":
            if action is None:
                raise ResourceMissingError("the companion has no such form")
            return self._act(self._forms.take(action, request.body)).response()
        if action is not None:
            return self._confirm(action, request.query.get("id", "")).response()
        return self._look(name, request)

    def _admit(self, code: str) -> Response:
        # A page that leads on, not a redirect: after a link from elsewhere a browser would not send the new cookie along with one.
        return self._page("admitted", path=self._admission.path + "overview").response(**{"set-cookie": self._admission.admit(code)})

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look(self, name: str, request: Request) -> Response:
        match name:
            case "page.css":
                return style()
            case "verify":
                return self._verify().response()
            case "proof":
                return self._proof(request.query.get("seq", "")).response()
            case "log.jsonl":
                return text_file(name, "application/jsonl", "".join(f"{line}\n" for line in self._client.audit().export()))
            case "log.csv":
                return text_file(name, "text/csv", "".join(f"{line}\n" for line in csv_lines(self._client.audit())))
            case _ if name in PAGES:
                status, html = self._client.page(link(f"/page/{name}", **request.query))
                return Page(html, status).response()
        raise ResourceMissingError("there is no such page", hint="begin at the overview")

    def _verify(self) -> Page:
        log = self._client.audit()  # verified as a whole, or refused
        key = self._client.broker_key()
        head = log.verify(key, seen=self._seen)
        newest = self._client.audit_since(head)
        own = sum(entry.event is not None for entry in log.entries)
        return self._page("verified", head=head, seen=self._seen, newest=newest, own=own, key=key.digest)

    def _proof(self, seq: str) -> Page:
        if not (seq.isascii() and seq.isdigit() and len(seq) < 16):
            raise UsageError("a number of the audit log is written in digits")
        proof = self._client.audit_proof(int(seq))
        head = proof.verify(self._client.broker_key())
        told = None if proof.entry.event is None else row_of(proof.entry.event)
        return self._page("proof", proof=proof, head=head, told=told, key=self._client.broker_key().digest)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def _confirm(self, action: Action, subject: str) -> Page:
        view = self._client.grant_list().find(subject)
        digest = _digest(view)
        form = self._forms.show(action, subject, digest)
        return self._page("confirm", action=action, digest=digest, form=form, broker=self._client.broker_key().digest, **_terms(view))

    def _act(self, shown: Shown) -> Page:
        view = self._client.grant_list().find(shown.subject)
        if (digest := _digest(view)) != shown.digest:
            raise CredentialError(
                "the broker shows something else now than what you confirmed", expected=shown.digest, got=digest,
                hint="nothing was signed; look at it again, and ask the broker's operator why it changed",
            )  # fmt: skip
        standing: StandingView | None = None
        match shown.action:
            case "approve" | "reject" as verdict:
                standing = self._client.vote(shown.subject, verdict, digest=shown.digest).standing
            case "take-back":
                standing = self._client.take_back(shown.subject)
            case "end":
                self._client.revoke(shown.subject)
        kind = view.departure.way if isinstance(view, DepartureView) else "rule"
        said: dict[str, Any] = {"is_grant": isinstance(view, GrantView), "kind": kind, "standing": standing}
        return self._page("done", action=shown.action, subject=shown.subject, digest=shown.digest, **said)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Page:
        return Page(render(template, here="", who=self._name, now=self._clock(), **values), status)


def _digest(view: View) -> str:
    """Of what is voted on.  Computed here from what is shown, never the broker's own number."""
    return view.subject.digest


def _terms(view: View) -> dict[str, Any]:
    nothing: dict[str, Any] = {"view": None, "change": None, "departure": None, "lines": [], "weakened": (), "standing": view.standing}
    match view:
        case GrantView(grant):
            policy = grant.policy
            return {**nothing, "view": view, "lines": list(lines_of(policy)), "weakened": weakened(policy)}
        case ChangeView(change):
            return {**nothing, "change": change}
        case DepartureView(departure):
            return {**nothing, "departure": departure}
