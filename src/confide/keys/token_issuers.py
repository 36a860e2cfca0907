"""Which issuers of signed tokens a broker believes, of whom, and for what.  Values, from one TOML file; by default nobody's tokens count.

No rule here makes somebody a person at the broker: people enrol with a key, and tie what an issuer calls them to it (``keys.token_links``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from confide.canonical import parse_toml
from confide.errors import ConfigError, ParseError
from confide.keys.roles import MAY, Office
from confide.keys.tenant_records import DEFAULT_TENANT
from confide.regular_file import read_regular

READING: Final = frozenset({"audit", "list-keys", "list-grants", "list-tenants", "kbs-list", "wrapping-key"})
"""Commands for which a token may be a plain bearer's: they change nothing and hand out no key."""
NEVER: Final = frozenset({"token-link", "token-unlink", "list-token-links", "kbs-token-key"})
"""Commands that no token is good for, whatever a file says: no token makes tokens."""
_MAX_FILE: Final = 1024 * 1024


class OwnerIssuer(BaseModel):
    """One issuer.  Every field narrows what counts; a token has to meet all of them.

    ``audience`` is the broker's name at the issuer, and ``clients`` are whose tokens count (``azp``, ``client_id``).  Keys come from
    ``jwks_file``, or by discovery (OpenID Connect Discovery 1.0) under certificates in ``ca_file``.  ``groups``: for an office named here,
    a token has to have one of these groups.  ``plain`` are commands beyond reading for which a token need not be bound to a key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    audience: str = Field(min_length=1)
    clients: tuple[str, ...] = Field(min_length=1)
    tenants: tuple[str, ...] = (DEFAULT_TENANT,)
    subject: Literal["sub", "email"] = "sub"
    types: tuple[Literal["at+jwt", "jwt"], ...] = ("at+jwt",)
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA"], ...] = ("RS256", "ES256", "EdDSA")
    jwks_file: Path | None = None
    ca_file: Path | None = None
    groups_claim: str = "groups"
    groups: dict[Office, tuple[str, ...]] = Field(default_factory=dict)
    plain: frozenset[str] = frozenset()

    @field_validator("issuer", mode="after")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("an issuer is https://HOST[/PATH]")
        return url

    @field_validator("plain", mode="after")
    @classmethod
    def _commands(cls, names: frozenset[str]) -> frozenset[str]:
        if not names <= set(MAY) - NEVER:
            raise ValueError("plain names commands of docs/reference/roles.md that a token can be for")
        return names

    @model_validator(mode="after")
    def _something(self) -> OwnerIssuer:
        if not self.tenants or not self.types or not self.algorithms or any(not names for names in self.groups.values()):
            raise ValueError("an empty list would let nobody in: leave it out")
        return self

    def of_tenant(self, tenant: str) -> bool:
        """Whether the issuer speaks for people of that tenant; of those who are of none, only if it says so."""
        return tenant in self.tenants

    def allows(self, action: str, *, bound: bool) -> bool:
        """Whether a token is good for a command: one that is bound to the client's certificate, or one that is not."""
        return action not in NEVER and (bound or action in READING or action in self.plain)


class Issuers(BaseModel):
    """All issuers of a broker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: tuple[OwnerIssuer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Issuers:
        if len({one.issuer for one in self.issuer}) != len(self.issuer):
            raise ValueError("an issuer is named twice")
        return self


def load_issuers(path: Path) -> tuple[OwnerIssuer, ...]:
    """Read the file that ``confide broker serve --issuers`` names; files in it are relative to it.

    Raises:
        ConfigError: it cannot be read, or says something else than it may.
    """
    try:
        table = parse_toml(read_regular(path, _MAX_FILE).decode("utf-8"))
        found = Issuers.model_validate(table).issuer
    except (OSError, UnicodeDecodeError, ParseError) as cause:
        raise ConfigError(f"cannot read {path}: {cause}", path=str(path)) from cause
    except ValidationError as cause:
        first = cause.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint="docs/guides/broker.md has an example", path=str(path)) from None
    folder = path.parent
    return tuple(
        one.model_copy(
            update={name: folder / value for name in ("jwks_file", "ca_file") if (value := getattr(one, name)) is not None},
        )
        for one in found
    )


