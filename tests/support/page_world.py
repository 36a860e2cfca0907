"""The companion of one owner at a real broker, over real sockets, and a browser that sends what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import urlencode

from support.broker_world import JOB, World, policy

from confide.canonical import Json
from confide.errors import ConfideError
from confide.keys.client import OwnerClient
from confide.keys.grants import Grant
from confide.keys.page.admission import COOKIE, Admission
from confide.keys.page.companion import Companion
from confide.keys.page.loopback import Loopback


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def title(self) -> str:
        found = re.search(r"<h1>(.*?)</h1>", self.text, re.DOTALL)
        return unescape(found[1]) if found else ""

    def field(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found, f"the page has no field {name}: {self.title}"
        return unescape(found[1])


@dataclass
class Browser:
    """Sends the headers that browsers send, unless a test changes them."""

    host: str
    cookie: str | None = None

    def send(self, method: str, path: str, body: bytes | None = None, **changed: str | None) -> Reply:
        wanted: dict[str, str | None] = {"Host": self.host, "Sec-Fetch-Site": "same-origin" if self.cookie else "none"}
        if method == "POST":
            wanted |= {"Origin": f"http://{self.host}", "Sec-Fetch-Site": "same-origin"}
            wanted["Content-Type"] = "application/x-www-form-urlencoded"
        if self.cookie:
            wanted["Cookie"] = self.cookie
        wanted |= {name.replace("_", "-"): value for name, value in changed.items()}
        with contextlib.closing(http.client.HTTPConnection(self.host, timeout=20)) as connection:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in wanted.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            text = answer.read().decode()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)


@dataclass
class Visit:
    """One companion that runs, its session, and a browser that is admitted."""

    companion: Companion
    admission: Admission
    code: str
    browser: Browser = field(init=False)

    def __post_init__(self) -> None:
        self.browser = Browser(self.admission.host)

    def enter(self) -> Visit:
        reply = self.browser.send("GET", f"/start?code={self.code}")
        assert reply.status == 200, reply.text
        self.browser.cookie = reply.headers["set-cookie"].partition(";")[0]
        assert self.browser.cookie.startswith(COOKIE)
        return self

    def get(self, page: str, **changed: str | None) -> Reply:
        return self.browser.send("GET", self.admission.path + page, **changed)

    def post(self, page: str, form: dict[str, str] | bytes, **changed: str | None) -> Reply:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        return self.browser.send("POST", self.admission.path + page, body, **changed)

    def confirm(self, action: str, subject: str) -> dict[str, str]:
        """The form of the page that asks for confirmation, filled in."""
        reply = self.get(f"{action}?id={subject}")
        assert reply.status == 200, reply.title
        return {"form": reply.field("form"), "digest": reply.field("digest"), "read": "yes"}


class Office:
    """An airline whose key has two approvers, a grant that waits, and companions for whoever wants one."""

    def __init__(self, world: World, clean: contextlib.ExitStack) -> None:
        self.world = world
        self._clean = clean
        self.airline, self.ada, self.bob = (world.owner(name) for name in ("airline", "ada", "bob"))
        self.minted, self.manifest = world.dataset(self.airline, "airline", "flights")
        self.airline.set_approvers("flights", 2, ["ada", "bob"])
        self.grant = self.airline.grant("flights", job=JOB, policy=policy(), recipients=["bob"], max_runs=3)

    def visit(self, name: str, client: OwnerClient | None = None, *, idle_s: float = 600.0) -> Visit:
        listener = Loopback(idle_s=idle_s)
        admission = Admission(listener.host)
        companion = Companion(client or self.world.stranger(self.world.credential(name)), name, admission, self.world.now)
        thread = threading.Thread(target=listener.serve, args=(companion.handle,), daemon=True)
        thread.start()
        self._clean.callback(thread.join, 5)
        self._clean.callback(listener.close)
        assert admission.code is not None
        return Visit(companion, admission, admission.code)

    def approved_by(self) -> tuple[str, ...]:
        (view,) = [view for view in self.airline.grant_list().grants if view.grant.id == self.grant.id]
        return view.standing.approved

    def refuse_one(self) -> str:
        """Let a node be refused; the refusal's code."""
        try:
            self.world.client(self.world.node(attester=self.world.attester(measurement="cd" * 32))).release(self.manifest)
        except ConfideError as error:
            return error.code
        raise AssertionError("it was not refused")

    def release_one(self) -> None:
        self.world.client(self.world.node()).release(self.manifest)

    def number_of(self, **wanted: Any) -> int:
        """The number of the newest audit entry that says this."""
        found = [e.seq for e in self.world.store.audit() if e.event and all(e.event.get(name) == value for name, value in wanted.items())]
        return found[-1]


class LyingClient(OwnerClient):
    """A client whose broker changes its answers."""

    pages: dict[str, str] = {}  # noqa: RUF012
    swap: Grant | None = None
    """What the broker says that its first grant is, from now on."""

    def page(self, path: str) -> tuple[int, str]:
        return (200, self.pages[path]) if path in self.pages else super().page(path)

    def _call(self, method: str, path: str, body: Json | None = None) -> Any:
        answer = super()._call(method, path, body)
        if path == "grants" and self.swap is not None:
            answer._data["grants"] = [self.swap.to_json()]
        return answer
