"""Which browser the companion listens to: one, that has shown the code from the owner's terminal.  Pure.

A page of any other site can send requests to loopback, and so can every program of every user of this machine.  So a request counts only
if (1) it names this listener and no other name that leads to it (DNS rebinding), (2) no other site made the browser send it, (3) it
carries the cookie that one browser got for the code, and (4) it goes to this session's own folder.  The cookie is for that folder only:
browsers do not tell ports apart, and would send it to whatever else listens on 127.0.0.1 (RFC 6265, section 8.5).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from typing import Final

from confide.crypto.http_messages import Request
from confide.errors import CredentialError

COOKIE: Final = "confide-page"
_ENTRY: Final = frozenset({"/", "/start"})


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass(slots=True)
class Admission:
    """One session of the companion at ``host`` (``127.0.0.1:PORT``)."""

    host: str
    folder: str = field(default_factory=_secret, repr=False)
    code: str | None = field(default_factory=_secret, repr=False)
    """Until a browser has shown it."""
    _cookie: str = field(default_factory=_secret, repr=False)

    @property
    def origin(self) -> str:
        """What browsers call this listener."""
        return f"http://{self.host}"

    @property
    def path(self) -> str:
        """Where this session's pages are."""
        return f"/{self.folder}/"

    def check_origin(self, request: Request) -> None:
        """Refuse what was sent under another name, or made by another site.

        Raises:
            CredentialError: it was.
        """
        if request.headers.get("host") != self.host:
            raise CredentialError("this name is not the companion's", hint=f"open {self.origin}/")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if request.method == "POST" and origin != self.origin:
            raise CredentialError("the form does not come from the companion's own page")
        # Links from elsewhere may lead to the entry, where the code is asked for, and nowhere else.
        own = {None, "same-origin", "none"} if request.method != "POST" else {None, "same-origin"}
        if site not in own and not (request.method == "GET" and request.path in _ENTRY):
            raise CredentialError("another site has made the browser ask for this", hint=f"open {self.origin}/")

    def admit(self, code: str) -> str:
        """The cookie (``Set-Cookie``) for the browser that shows the code: once.

        Raises:
            CredentialError: another code, or it was used.
        """
        if self.code is None:
            raise CredentialError("the code was used: one browser is admitted already", hint="run `confide keys page` again for another")
        if not compare_digest(self.code.encode(), code.encode()):
            raise CredentialError("this is not the code", hint="it is shown in the terminal where `confide keys page` runs")
        self.code = None
        return f"{COOKIE}={self._cookie}; Path={self.path}; HttpOnly; SameSite=Strict"

    def check_admitted(self, request: Request) -> str:
        """The name of the page that the admitted browser asks for.

        Raises:
            CredentialError: another browser, or it asks outside of the session's folder.
        """
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(request.headers.get("cookie", ""))
        except CookieError:
            cookies.clear()
        shown = cookies[COOKIE].value if COOKIE in cookies else ""
        if not request.path.startswith(self.path) or not compare_digest(shown.encode(), self._cookie.encode()):
            raise CredentialError("this browser was not admitted", hint="open the address that `confide keys page` shows, in one browser")
        return request.path.removeprefix(self.path)
