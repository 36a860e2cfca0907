"""The broker's pages over HTTPS: ``GET /page/NAME``, for clients that show an enrolled key.  One prefix of ``keys.routes``.

Refusals are pages too.  Nothing is decided here, and no form is taken: what takes an owner's key is the companion's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confide.crypto.http_messages import Request, Response, problem
from confide.errors import ConfideError, CredentialError, ResourceMissingError
from confide.keys.page.pages import OWN_KEY, Pages
from confide.keys.page.render import STYLE, Page, render, style
from confide.keys.page.sources import Commands
from confide.keys.roles import has_row

if TYPE_CHECKING:
    from confide.keys.broker import Broker
    from confide.keys.sessions import Peer

PREFIX: Final = "/page/"


def serve_page(broker: Broker, request: Request, peer: Peer) -> Response | None:
    """The page, or ``None`` for a request that is for none.

    Raises:
        ExtraMissingError: pages cannot be made here.
    """
    if not request.path.startswith(PREFIX) or (request.method == "GET" and not has_row("GET", request.path)):
        return None
    name = request.path.removeprefix(PREFIX)
    try:
        if request.method != "GET" or request.json is not None:
            raise ResourceMissingError("pages are only looked at here", hint="what decides needs your own key: `confide keys page`")
        if name == STYLE:
            return style()
        if name in OWN_KEY:
            hint = "run `confide keys page` on your own machine: it signs with your key and checks the log itself"
            raise CredentialError("the broker does not do this for you", hint=hint)
        return Pages(Commands(broker, peer), broker.clock()).page(name or "overview", request.query).response()
    except ConfideError as error:
        return refusal(error).response()


def refusal(error: ConfideError) -> Page:
    """An error as a page."""
    return Page(render("refusal", here="", who="", error=error), problem(error).status)
