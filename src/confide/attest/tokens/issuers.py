"""Verifiers that an owner's policy may name: who issues tokens, with which keys, and for whom.  By default nobody does."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from confide.attest.amd_certs import Product
from confide.attest.tokens.jwt import Algorithm

Kind = Literal["ita", "maa"]
"""Intel Trust Authority, Microsoft Azure Attestation."""
_ITA_NAME: Final = "Intel Trust Authority"
"""``iss`` of Intel's tokens of version 1; others name themselves by address."""
_ALGORITHMS: dict[Kind, tuple[Algorithm, ...]] = {"ita": ("PS384", "RS256"), "maa": ("RS256",)}
"""What each service signs with, by its documentation."""


class TokenIssuer(BaseModel):
    """One verifier whose tokens count, if a policy holds this.

    Its keys are given as ``jwks``, or fetched from ``jwks_url``: never from where a token says.  ``audience``, if set, has to be the
    token's.  ``x5c_root``, if set, is the SHA-256 of the certificate that the chain of each of its keys has to end in.
    ``snp_product`` is the product of the machines behind an MAA instance, which its tokens do not name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    issuer: str
    jwks: str | None = None
    jwks_url: str | None = None
    algorithms: tuple[Algorithm, ...] = ()
    audience: str | None = Field(default=None, min_length=1)
    x5c_root: str | None = None
    snp_product: Product | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_algorithms(cls, data: Any) -> Any:
        kind = data.get("kind") if isinstance(data, dict) and not data.get("algorithms") else None
        return {**data, "algorithms": _ALGORITHMS[kind]} if isinstance(kind, str) and kind in _ALGORITHMS else data

    @field_validator("algorithms", mode="after")
    @classmethod
    def _sorted(cls, values: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
        return tuple(sorted(set(values)))

    @field_validator("jwks_url", mode="after")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urllib.parse.urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
        if not (parts.scheme == "https" or local) or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("write an issuer and the place of its keys as https://HOST[/PATH]")
        return url

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind, self.issuer) != ("ita", _ITA_NAME):
            self._address(self.issuer)
        return self

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if (self.jwks is None) == (self.jwks_url is None):
            raise ValueError("an issuer's keys are either given (jwks) or fetched from one place (jwks_url)")
        if self.x5c_root is not None and not re.fullmatch(r"[0-9a-f]{64}", self.x5c_root):
            raise ValueError("x5c_root is a SHA-256 in lower-case hex")
        return self
