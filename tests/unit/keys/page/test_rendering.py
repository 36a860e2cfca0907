"""Nothing that a page shows becomes part of the page: hostile texts in every field, on every page and in every template."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from jinja2 import UndefinedError
from support.broker_world import JOB, policy

from confide.canonical import Json
from confide.crypto.seal import SealKey
from confide.errors import AuditError, BrokerError, ResourceMissingError, SealedError, UsageError
from confide.ids import KeyRef, Purpose, Role, SpkiDigest
from confide.keys.approvals import ApprovalRule, Approver, RuleChange
from confide.keys.audit import AuditEntry, AuditHead, AuditProof
from confide.keys.departures import Departure
from confide.keys.grant_client import ChangeView, DepartureView, GrantList, GrantView, StandingView
from confide.keys.grants import Grant
from confide.keys.key_client import KeyInfo, VersionInfo
from confide.keys.key_records import KeyState
from confide.keys.page.events import TITLES, Told, newest
from confide.keys.page.pages import PAGES, Pages
from confide.keys.page.policy_words import lines_of, weakened
from confide.keys.page.render import moment, printable, render
from confide.keys.page.routes import refusal

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
CANARY = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;{{ 7*7 }}{% raw %}\u202ecba\u0000\n\r\u2028javascript:"
TEMPLATES = sorted(found.name for found in files("confide.keys.page").joinpath("templates").iterdir() if found.name.endswith(".html"))


class Structure(HTMLParser):
    """The elements and attribute names of a page; values of links and forms."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"href", "action", "src"}:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_harmless(text: str) -> None:
    found = Structure(text)
    assert not {"script", "img", "iframe", "object", "base", "style", "svg"} & set(found.elements)
    assert not {name for name in found.attributes if name.startswith("on") or name in {"style", "src", "srcdoc"}}
    for address in found.addresses:
        assert re.fullmatch(r"#main|/[\w-]+/overview|[a-z][a-z.-]*(\?[\w.%=&+-]*)?", address), address
    said = "".join(found.text)
    assert "\u202e" not in said
    assert "\u0000" not in said
    assert "49" not in said.split("7*7")[0][-20:]
    assert len(found.ids) == len(set(found.ids))


def hostile_event(**changed: Any) -> Json:
    names = ("run", "node", "job", "role", "dataset", "key", "grant", "subject", "hint", "message", "check", "expected", "got", "policy",
             "evidence", "measurement", "tee", "simulated", "debug", "tcb_status", "code", "owner", CANARY)  # fmt: skip
    base = dict.fromkeys(names, CANARY)
    lists = {"owners": [CANARY], "policies": [CANARY]}
    return {**base, **lists, "action": "refuse", "refused": "release", "time": CANARY, "blind": CANARY, **changed}


class HostileKey:
    """A key whose name is none that the broker would take."""

    id = CANARY

    def __str__(self) -> str:
        return CANARY


class HostileList(GrantList):
    def rule(self, key: str) -> ApprovalRule:
        return self.rules[0]


@dataclass
class Hostile:
    """A source whose every text is the canary."""

    name: str = CANARY
    events: list[Json] = field(default_factory=lambda: [hostile_event(), hostile_event(action=CANARY), hostile_event(action="release")])
    grant: Grant = field(init=False)

    def __post_init__(self) -> None:
        made = Grant.new(
            "airline/flights", job=JOB, policy=policy(), roles=list(Role), purposes=list(Purpose), recipients=["bob"],
            not_after=NOW + timedelta(days=1), max_runs=2, now=NOW,
        )  # fmt: skip
        self.grant = made
        for name in ("key", "job", "recipients"):
            object.__setattr__(made, name, (CANARY,) if name == "recipients" else CANARY)

    def may(self, action: str) -> bool:
        return True

    def keys(self) -> tuple[KeyInfo, ...]:
        versions = tuple(VersionInfo(number, state, NOW, 3) for number, state in enumerate(KeyState, start=1))
        info = KeyInfo(KeyRef("airline", "flights", 3), NOW, 9, versions)
        return (info, replace(info, key=HostileKey()))  # type: ignore[arg-type]

    def grant_list(self) -> GrantList:
        standing = StandingView(2, (CANARY,), (CANARY + "r",), (CANARY, CANARY + "r", self.name), 1)
        rule = ApprovalRule("airline/flights", 1, (Approver("ada", b"\x01"),))
        object.__setattr__(rule, "key", CANARY)
        object.__setattr__(rule.approvers[0], "name", CANARY)
        change = ChangeView(RuleChange("ab" * 8, rule, NOW), standing)
        waiting = GrantView(self.grant, replace(standing, approved=()))
        terms = {"source": CANARY, "target": CANARY, "jwk": SealKey.generate().public_jwk()}
        leaves = DepartureView(Departure("cd" * 8, CANARY, "export", terms, NOW), standing)
        return HostileList((GrantView(self.grant, standing), waiting), (change,), (rule,), (leaves,))

    def audit_page(self, first: int, limit: int) -> tuple[list[AuditEntry], AuditHead]:
        entries = [AuditEntry(number, "ab" * 32, event) for number, event in enumerate(self.events, start=1)]
        entries.append(AuditEntry(len(entries) + 1, "cd" * 32, None))
        return entries[first - 1 : first - 1 + limit], AuditHead(len(entries), CANARY, 1, CANARY)


QUERIES: dict[str, list[dict[str, str]]] = {
    "releases": [{}, {"run": CANARY}, {"code": CANARY, "dataset": CANARY}],
    "release": [{"seq": "1"}, {"seq": "2"}, {"seq": "3"}],
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_the_brokers_pages_show_becomes_markup(name: str) -> None:
    source = Hostile()
    queries = QUERIES.get(name, [{"id": source.grant.id}] if name == "grant" else [{}])
    for query in queries:
        page = Pages(source, NOW).page(name, query)
        check_harmless(page.html)
        assert "alert(1)" in html.unescape(page.html), "the canary is not on this page"


def companion_pages() -> dict[str, dict[str, Any]]:
    source = Hostile()
    view, change = source.grant_list().grants[0], source.grant_list().changes[0].change
    head = AuditHead(3, CANARY, 1, CANARY)
    entry = AuditEntry(1, "ab" * 32, hostile_event())
    terms = {"lines": list(lines_of(source.grant.policy)), "weakened": weakened(source.grant.policy), "standing": view.standing}
    confirm = {"action": "approve", "digest": CANARY, "form": CANARY, "broker": CANARY, **terms}
    error = UsageError(CANARY, hint=CANARY, some_fact=CANARY)
    leaves = Departure("cd" * 8, CANARY, "export", {"source": CANARY, "target": CANARY, "jwk": SealKey.generate().public_jwk()}, NOW)
    return {
        "entry": {},
        "admitted": {"path": "/folder/overview"},
        "confirm.html": {**confirm, "view": view, "change": None},
        "confirm.html.html": {**confirm, "view": None, "change": None, "departure": leaves},
        "confirm": {**confirm, "view": None, "change": change},
        "done": {"action": "end", "subject": CANARY, "digest": CANARY, "standing": view.standing, "is_grant": True},
        "verified": {"head": head, "seen": head, "newest": head, "own": 1, "key": CANARY},
        "proof": {"proof": AuditProof(entry, (b"\x01" * 32,), {}), "head": head, "told": (CANARY, CANARY, CANARY), "key": CANARY},
        "refusal": {"error": error},
        "turned-away": {"error": error},
    }


@pytest.mark.parametrize("name", sorted(companion_pages()))
def test_nothing_that_the_companions_pages_show_becomes_markup(name: str) -> None:
    check_harmless(render(name.partition(".")[0], here="", who=CANARY, now=NOW, **companion_pages()[name]))


def test_every_template_is_tried_here() -> None:
    tried = {*PAGES, *(name.partition(".")[0] for name in companion_pages()), "base", "parts"}
    assert tried == {name.removesuffix(".html") for name in TEMPLATES}


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_turns_escaping_off(name: str) -> None:
    text = files("confide.keys.page").joinpath("templates", name).read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape|Markup|<script|<style|\bon\w+=|style=|https?:|(?<!url)=\{\{", text)


def test_value_that_was_forgotten_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("done", here="", who="", action="end")


def test_policy_names_every_field_that_it_asks_for() -> None:
    full = policy(
        statuses=("UpToDate", "OutOfDate"), statuses_until={"OutOfDate": "2027-01-31"}, min_tcb_eval=17, min_tcb_date="2026-01-01",
        advisories_allowed=("INTEL-SA-00615",), platforms={"fmspc": ("00906ed50000",)}, max_collateral_age_days=7,
        max_evidence_age_s=60, jobs=("11" * 48,), roles=("driver",),
        signers={"sgx": [{"mrsigner": "ab" * 32, "isv_prod_id": 1, "min_isv_svn": 2}]},
    )  # fmt: skip
    shown = {line.field: " ".join(line.values) for line in lines_of(full)}
    asked = {name for name, value in full.to_json().items() if name not in {"format", "name"} and _asks(value)}
    assert set(shown) == asked
    for wanted in ("OutOfDate: 2027-01-31", "17", "2026-01-01", "INTEL-SA-00615", "00906ed50000", "11" * 48, "min_isv_svn: 2"):
        assert any(wanted in text for text in shown.values()), wanted


def _asks(value: Any) -> bool:
    return any(map(_asks, value.values())) if isinstance(value, dict) else value not in (None, [], "")


def test_line_of_a_policy_says_whether_the_node_fits() -> None:
    event = {"tee": "sgx", "measurement": "cd" * 32, "role": "worker", "simulated": "yes", "debug": "no"}
    fits = {line.field: line.fits for line in lines_of(policy(allow=()), event)}
    assert fits["tees"] is True
    assert fits["measurements"] is False
    assert fits["roles"] is True
    assert {line.field: line.fits for line in lines_of(policy(), event)}["allow"] is True
    assert {line.field: line.fits for line in lines_of(policy(), {**event, "debug": "yes"})}["allow"] is False


@pytest.mark.parametrize("said", ["yes", "", "No", "no ", None, 0, [], CANARY])
def test_evidence_looks_real_only_if_the_log_says_that_it_is(said: Any) -> None:
    assert Told(1, {"evidence": "ab", "simulated": said}).evidence == "simulated"
    assert Told(1, {"evidence": "ab"}).evidence == "simulated"
    assert Told(1, {"evidence": "ab", "simulated": "no", "debug": "yes"}).evidence == "debug"
    assert Told(1, {"evidence": "ab", "simulated": "no"}).evidence == "real"
    assert Told(1, {"action": "grant"}).evidence == ""


def test_simulated_evidence_is_said_in_words_wherever_it_is_shown() -> None:
    source = Hostile(events=[{"action": "release", "time": NOW.isoformat(), "evidence": "ab", "simulated": "yes", "owners": []}])
    for name, query in (("overview", {}), ("releases", {}), ("release", {"seq": "1"}), ("audit", {})):
        text = Pages(source, NOW).page(name, query).html
        assert "SIMULATED evidence" in text
        assert "Evidence of hardware" not in text


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (SealedError("sealed"), 423, "The broker is sealed"),
        (BrokerError("gone"), 503, "No usable answer from the broker"),
        (AuditError("changed"), 500, "The audit log does not verify"),
        (UsageError("wrong"), 400, "This is refused"),
    ],
)
def test_refusals_are_pages(error: Any, status: int, title: str) -> None:
    page = refusal(error)
    assert page.status == status
    assert f"<h1>{title}</h1>" in page.html
    assert f"docs/errors/{error.code}.md" in page.html


@pytest.mark.parametrize(
    ("name", "query"),
    [("overview", {"x": "1"}), ("audit", {"before": "x"}), ("audit", {"before": "9" * 20}), ("release", {}), ("release", {"seq": "4"}),
     ("release", {"seq": "99"}), ("release", {"seq": "0"}), ("grant", {}), ("grant", {"id": "ab"}), ("nothing", {})],
)  # fmt: skip
def test_page_that_is_asked_for_wrongly_is_refused(name: str, query: dict[str, str]) -> None:
    with pytest.raises((UsageError, ResourceMissingError)):
        Pages(Hostile(), NOW).page(name, query)


def test_log_is_walked_back_page_by_page() -> None:
    source = Hostile(events=[{"action": "release" if number % 3 else "mint", "time": "", "owners": []} for number in range(1700)])
    seen: list[int] = []
    before: int | None = None
    while True:
        found = newest(source, lambda event: event["action"] == "release", before=before, limit=100)
        seen += [entry.seq for entry in found.entries]
        if found.older is None:
            break
        before = found.older
    assert seen == [number + 1 for number in reversed(range(1700)) if number % 3]


def test_texts_and_times() -> None:
    assert printable("a\u202eb\n") == "a\\u202eb\\n"
    assert moment(NOW) == "2026-11-27 12:00:00Z"
    assert moment("2026-11-27T13:00:00+01:00") == "2026-11-27 12:00:00Z"
    assert moment("yesterday") == "yesterday"
    assert "release" in TITLES
    assert Told(1, {"action": "refuse", "code": "grant-missing"}).document == "docs/errors/grant-missing.md"
    assert SpkiDigest("x") == "x"
