"""Templates and their escaping: the only place that makes HTML.

Everything that is shown may come from somebody else: nodes, other owners, a broker that lies.  Jinja escapes each expression, and before
that everything that does not print is written out, so that no text changes the direction or the lines of what stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from confide.crypto.http_messages import Response
from confide.errors import ExtraMissingError
from confide.keys.connection import HTML_TYPE

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG_HEX = re.compile(r"[0-9a-f]{24,}")
STYLE: Final = "page.css"
POLICY: Final = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
"""Content-Security-Policy (W3C, level 3): no script, no image, nothing from elsewhere."""
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not no-referrer: with that, browsers send the origin of forms as "null" (Fetch, "append a request Origin header").
    "referrer-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One page as HTML, and the HTTP status that goes with it."""

    html: str
    status: int = 200

    def response(self, **headers: str) -> Response:
        """The page with the headers that every page has."""
        return Response(self.status, {"content-type": f"{HTML_TYPE}; charset=utf-8", **HEADERS, **headers}, text=self.html)


def render(template: str, **values: Any) -> str:
    """The HTML of a template; a value that it needs and was not given is an error.

    Raises:
        ExtraMissingError: Jinja is not installed.
    """
    return _environment().get_template(f"{template}.html").render(**values)


def check_ready() -> None:
    """Return if pages can be made.

    Raises:
        ExtraMissingError: Jinja is not installed.
    """
    _environment()


def style() -> Response:
    """The style sheet."""
    text = files(__package__).joinpath("templates", STYLE).read_text(encoding="utf-8")
    return Response(200, {"content-type": "text/css; charset=utf-8", **HEADERS}, text=text)


def text_file(name: str, kind: str, text: str) -> Response:
    """A file to be saved."""
    headers = {"content-type": f"{kind}; charset=utf-8", "content-disposition": f'attachment; filename="{name}"', **HEADERS}
    return Response(200, headers, text=text)


def printable(value: Any) -> Any:
    """``value``; a text with everything written out that does not print: control characters, ends of lines, changes of direction."""
    if type(value) is not str or value.isprintable():  # markup of our own macros is a subclass
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def moment(value: object) -> str:
    """A time in ISO 8601 and UTC, to the second; what is no time stays as it is."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if found.tzinfo else str(value)


def short(text: str) -> str:
    """``text`` with every long digest cut to its beginning."""
    return _LONG_HEX.sub(lambda found: f"{found[0][:12]}…", text)


def link(page: str, **query: object) -> str:
    """A page's address, relative: all pages lie side by side."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{page}?{urlencode(given)}" if given else page


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an extra: brokers without pages do without
    except ImportError as cause:
        raise ExtraMissingError("Jinja is not installed, which pages are made with", hint="pip install 'confide[page]'") from cause

    made = Environment(
        loader=PackageLoader("confide.keys.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["moment"] = moment
    made.filters["short"] = short
    made.globals["link"] = link
    return made
