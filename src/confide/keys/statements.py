"""Signed statements about keys that leave a broker: how each is read.  Pure: what they say is in ``keys.transfer`` and ``keys.escrow``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from confide.canonical import Json, canonical, parse_object
from confide.crypto.seal import check_public_jwk
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import ConfideError


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements about one thing (``about``).  Whatever is wrong with one is an error of the class ``refusal``."""

    refusal: type[ConfideError]
    about: str

    def verified(self, envelope: Json, key: PublicKey, kind: str, form: str, fields: set[str]) -> Json:
        """The statement, if ``key`` signed it as ``kind``, and it has the ``format`` that ``form`` says and exactly these other fields."""
        try:
            data = parse_object(dsse_verify(envelope, key, kind))
        except ConfideError as cause:
            raise self.refusal(f"a statement of {self.about} does not verify: {cause.message}") from cause
        if set(data) != fields | {"format"}:
            raise self.refusal(f"a statement of {self.about} has other fields than it must")
        if data["format"] != form:
            raise self.refusal(f"a statement of {self.about} is of another version", expected=form)
        return data

    def read(self, reading: Callable[[], Any]) -> Any:
        """What ``reading`` gives."""
        try:
            return reading()
        except (ConfideError, ValueError, TypeError, KeyError, AttributeError) as cause:
            raise self.refusal(f"a field of {self.about} cannot be read") from cause

    def texts(self, data: Json, *names: str) -> list[str]:
        """Fields that are texts."""
        found = [text for text in map(data.get, names) if isinstance(text, str)]
        if len(found) != len(names):
            raise self.refusal(f"a field of {self.about} cannot be read")
        return found


@dataclass(frozen=True, slots=True)
class SignedKey:
    """A public key (P-256 JWK) that others seal to, in a statement of whose it is.  Subclasses say what the statement is called."""

    jwk: Json
    type: ClassVar[str]
    form: ClassVar[str]
    statements: ClassVar[Statements]

    def sign(self, holder: SigningKey) -> Json:
        """The statement, signed by whose key it is (DSSE envelope)."""
        return dsse_sign(holder, self.type, canonical({"format": self.form, "jwk": self.jwk}))

    @classmethod
    def verify(cls, envelope: Json, holder: PublicKey) -> Self:
        """Read a key that ``holder`` signed.

        Raises:
            ConfideError: it did not, or this is none; of the class that the statements refuse with.
        """
        data = cls.statements.verified(envelope, holder, cls.type, cls.form, {"jwk"})
        return cls(cls.statements.read(lambda: check_public_jwk(data["jwk"])))
