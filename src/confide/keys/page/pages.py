"""The broker's pages: which there are, and what each shows.  They show and decide nothing; a page that is asked for wrongly is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from confide.canonical import Json
from confide.crypto.sign import PublicKey
from confide.errors import ResourceMissingError, UsageError
from confide.keys.audit import AuditEntry
from confide.keys.grant_client import GrantList, GrantView
from confide.keys.page.events import Told, concerns_grant, is_release, newest
from confide.keys.page.policy_words import lines_of, weakened
from confide.keys.page.render import Page, render
from confide.keys.page.sources import Source

PAGES: Final = ("overview", "keys", "grants", "grant", "releases", "release", "audit")
"""What the broker serves, each under ``/page/``."""
OWN_KEY: Final = frozenset({"approve", "reject", "take-back", "end", "verify", "proof", "log.jsonl", "log.csv"})
"""What only the companion serves, because it takes the owner's key or has to be checked where the owner trusts the machine."""
ROWS: Final = 50
_RECENT: Final = 12
_FILTERS: Final = ("run", "dataset", "code")
_MOST_DIGITS: Final = 15
Query = Mapping[str, str]


class Pages:
    """The pages of one reader, as of ``now``."""

    def __init__(self, source: Source, now: datetime) -> None:
        self._source = source
        self._now = now
        self._made: Mapping[str, Callable[[Query], Page]] = {
            "overview": self._overview,
            "keys": self._keys,
            "grants": self._grants,
            "grant": self._grant,
            "releases": self._releases,
            "release": self._release,
            "audit": self._audit,
        }

    def page(self, name: str, query: Query) -> Page:
        """One page.

        Raises:
            ResourceMissingError: there is no such page, or nothing under that id.
            UsageError: the query is none of that page.
        """
        if name not in self._made:
            raise ResourceMissingError("there is no such page", hint="begin at the overview")
        return self._made[name](query)

    def _show(self, name: str, **values: Any) -> Page:
        return Page(render(name, here=name, who=self._source.name, may=self._source.may, now=self._now, **values))

    def _overview(self, query: Query) -> Page:
        _only(query)
        sees = self._source.may("list-grants") and self._source.may("list-keys")
        listed, keys = (self._source.grant_list(), self._source.keys()) if sees else (GrantList((), (), ()), ())
        found = newest(self._source, lambda event: is_release(event) or event.get("action") == "refuse", before=None, limit=_RECENT)
        waiting = [view for view in listed.grants if view.state(self._now).startswith("waits")]
        mine = [view for view in waiting if _is_asked(view, self._source.name)]
        return self._show(
            "overview",
            keys=keys,
            grants=listed.grants,
            mine=mine,
            others=[view for view in waiting if view not in mine],
            changes=listed.changes,
            departures=listed.departures,
            in_force=sum(view.state(self._now) == "in force" for view in listed.grants),
            recent=_told(found.entries),
            head=found.head,
        )

    def _keys(self, query: Query) -> Page:
        _only(query)
        return self._show("keys", keys=self._source.keys(), rules=self._source.grant_list().rules)

    def _grants(self, query: Query) -> Page:
        _only(query)
        listed = self._source.grant_list()
        ordered = sorted(listed.grants, key=lambda view: (view.state(self._now) in {"revoked", "ended"}, -view.grant.created.timestamp()))
        waiting = {"changes": listed.changes, "departures": listed.departures}
        return self._show("grants", grants=ordered, rules=listed.rules, weakened=weakened, **waiting)

    def _grant(self, query: Query) -> Page:
        _only(query, "id")
        view = _grant_of(self._source, query.get("id", ""))
        rule = self._source.grant_list().rule(view.grant.key)
        past = newest(self._source, lambda event: concerns_grant(event, view.grant.id), before=None, limit=ROWS)
        return self._show(
            "grant",
            view=view,
            lines=list(lines_of(view.grant.policy)),
            weakened=weakened(view.grant.policy),
            rule=rule,
            rule_keys={approver.name: PublicKey(approver.spki).digest for approver in rule.approvers},
            history=_told(past.entries),
            cut=past.older is not None,
        )

    def _releases(self, query: Query) -> Page:
        _only(query, *_FILTERS, "before")
        asked = {name: query[name] for name in _FILTERS if query.get(name)}

        def wanted(event: Json) -> bool:
            return is_release(event) and all(str(event.get(name, "")) == value for name, value in asked.items())

        found = newest(self._source, wanted, before=_number(query, "before"), limit=ROWS)
        shown = {name: asked.get(name, "") for name in _FILTERS}
        return self._show("releases", rows=_told(found.entries), older=found.older, filters=shown, head=found.head)

    def _release(self, query: Query) -> Page:
        _only(query, "seq")
        seq = _number(query, "seq")
        entries, _ = self._source.audit_page(seq, 1) if seq else ([], None)
        if not entries or entries[0].event is None:
            raise ResourceMissingError("there is no such event, or it does not concern you")
        told = Told(entries[0].seq, entries[0].event)
        listed = self._source.grant_list().grants if self._source.may("list-grants") else ()
        grants = [view for view in listed if _is_behind(view, told)]
        policies = {view.grant.id: list(lines_of(view.grant.policy, told.event)) for view in grants}
        return self._show("release", told=told, grants=grants, lines=policies)

    def _audit(self, query: Query) -> Page:
        _only(query, "before")
        found = newest(self._source, lambda _: True, before=_number(query, "before"), limit=ROWS, hidden=True)
        rows = [(entry, None if entry.event is None else Told(entry.seq, entry.event)) for entry in found.entries]
        return self._show("audit", rows=rows, older=found.older, head=found.head)


def _only(query: Query, *known: str) -> None:
    if not set(query) <= set(known):
        raise UsageError("the page is not asked for that way", hint="begin at the overview")


def _number(query: Query, name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UsageError("a number of the audit log is written in digits", field=name)
    return int(text)


def _told(entries: tuple[AuditEntry, ...]) -> list[Told]:
    return [Told(entry.seq, entry.event) for entry in entries if entry.event is not None]


def _grant_of(source: Source, name: str) -> GrantView:
    found = next((view for view in source.grant_list().grants if view.grant.id == name), None)
    if found is None:
        raise ResourceMissingError("there is no such grant, or you do not see it")
    return found


def _is_asked(view: GrantView, name: str) -> bool:
    """Whether ``name`` has still to say something."""
    said = {*view.standing.approved, *view.standing.rejected}
    return name in view.standing.approvers and name not in said


def _is_behind(view: GrantView, told: Told) -> bool:
    """Whether a grant was used, or is one of those that were refused by their policy."""
    if concerns_grant(told.event, view.grant.id):
        return True
    same_key = view.grant.key == told.event.get("key")
    return told.refused and same_key and view.grant.job in {None, told.event.get("job")}
