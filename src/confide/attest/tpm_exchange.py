"""The files of an enrolment: what goes between a machine and the owner, and what the owner keeps of open challenges.  Decides nothing.

Only an answer is a secret, and only until it is used: :meth:`OpenChallenges.take` gives a challenge out once.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from confide.attest import certs
from confide.attest.launch.files import read_capped
from confide.attest.tpm_enrol import Challenge
from confide.attest.tpm_format import Public
from confide.canonical import Json, b64url, from_b64url, parse_object
from confide.crypto.sign import write_private_file
from confide.errors import CredentialError, NonceError, ParseError, UsageError
from confide.ids import check_name

REQUEST_FORMAT: Final = "confide-tpm-request-v1"
CHALLENGE_FORMAT: Final = "confide-tpm-challenge-v1"
ANSWER_FORMAT: Final = "confide-tpm-answer-v1"
_OPEN_FORMAT: Final = "confide-tpm-open-challenge-v1"
CHALLENGE_TTL: Final = timedelta(days=7)
"""How long a machine may take to answer: files may be carried by hand."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAX_FILE: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A machine's: its owner's name for it, the chain of its TPM's endorsement key (PEM), and TPMT_PUBLIC of the attestation key."""

    machine: str
    ek_chain: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        fields = _fields(data, REQUEST_FORMAT, {"machine", "ek_chain", "key"})
        try:
            machine = check_name(fields["machine"], "machine")
        except UsageError as cause:
            raise ParseError(cause.message) from cause
        found = cls(machine, fields["ek_chain"].encode(), from_b64url(fields["key"]))
        certs.parse_chain(found.ek_chain)
        Public.parse(found.key)
        return found

    @property
    def ek(self) -> str:
        """SHA-256 of the endorsement key's certificate."""
        return hashlib.sha256(certs.der(certs.parse_chain(self.ek_chain)[0])).hexdigest()

    def to_json(self) -> Json:
        """The request as JSON."""
        return {"format": REQUEST_FORMAT, "machine": self.machine, "ek_chain": self.ek_chain.decode(), "key": b64url(self.key)}


@dataclass(frozen=True, slots=True)
class Sent:
    """The owner's challenge as it goes to the machine."""

    id: str
    credential: bytes
    encrypted_secret: bytes

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        fields = _fields(data, CHALLENGE_FORMAT, {"id", "credential", "encrypted_secret"})
        return cls(_id(fields["id"]), from_b64url(fields["credential"]), from_b64url(fields["encrypted_secret"]))

    def to_json(self) -> Json:
        """The challenge as JSON."""
        sent = {"credential": b64url(self.credential), "encrypted_secret": b64url(self.encrypted_secret)}
        return {"format": CHALLENGE_FORMAT, "id": self.id, **sent}


@dataclass(frozen=True, slots=True)
class Answer:
    """The machine's answer: the secret that its TPM gave out."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        fields = _fields(data, ANSWER_FORMAT, {"id", "secret"})
        return cls(_id(fields["id"]), from_b64url(fields["secret"]))

    def to_json(self) -> Json:
        """The answer as JSON."""
        return {"format": ANSWER_FORMAT, "id": self.id, "secret": b64url(self.secret)}


@dataclass(frozen=True, slots=True)
class Open:
    """A challenge that waits for its answer, with what its request said."""

    challenge: Challenge
    machine: str
    ek: str


class OpenChallenges:
    """An owner's open challenges, a file each.  They hold the SHA-256 of the answer, not the answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, challenge: Challenge, request: Request, now: datetime) -> Sent:
        """Keep a challenge until it is answered; what goes to the machine.

        Raises:
            CredentialError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as cause:
            raise CredentialError(f"cannot write {self._folder}: {cause.strerror}", path=str(self._folder)) from cause
        sent = Sent(secrets.token_hex(16), challenge.credential, challenge.encrypted_secret)
        kept = {"machine": request.machine, "ek": request.ek, "key": b64url(request.key), "answer": challenge.answer_digest.hex()}
        until = (now + CHALLENGE_TTL).isoformat()
        data = {"format": _OPEN_FORMAT, "until": until, **kept}
        write_private_file(self._path(sent.id), json.dumps(data).encode())
        return sent

    def take(self, name: str, now: datetime) -> Open:
        """The challenge of this id, which is open no more whatever comes of the answer.

        Raises:
            NonceError: there is none, it was answered before, or its time is over.
            ParseError: its file is not as it was written.
        """
        path = self._path(name)
        try:
            raw = path.read_bytes()
            path.unlink()  # of two who answer at once, one can
        except OSError as cause:
            raise NonceError("there is no open challenge of this id", hint="each is answered once: make another", id=name) from cause
        fields = _fields(parse_object(raw), _OPEN_FORMAT, {"until", "machine", "ek", "key", "answer"})
        public = Public.parse(from_b64url(fields["key"]))
        try:
            answer, late = bytes.fromhex(fields["answer"]), now >= datetime.fromisoformat(fields["until"])
        except (ValueError, TypeError) as cause:  # TypeError: a time without its zone
            raise ParseError("the file of an open challenge is not as it was written") from cause
        if late:
            raise NonceError("the challenge was open for too long", hint="make another", until=fields["until"])
        return Open(Challenge(b"", b"", public, answer), fields["machine"], fields["ek"])

    def _path(self, name: str) -> Path:
        return self._folder / f"{_id(name)}.json"


def read(path: Path) -> Json:
    """The JSON object in a file of an enrolment.

    Raises:
        UsageError: it cannot be read, or is too long.
        ParseError: it is no JSON object.
    """
    return parse_object(read_capped(path, _MAX_FILE))


def _fields(data: Json, form: str, names: set[str]) -> dict[str, str]:
    if data.get("format") != form:
        raise ParseError(f"not a file of format {form}", got=str(data.get("format"))[:80])
    rest: dict[str, Any] = {name: value for name, value in data.items() if name != "format"}
    if set(rest) != names or not all(isinstance(value, str) for value in rest.values()):
        raise ParseError(f"a file of format {form} has exactly these text fields: {', '.join(sorted(names))}")
    return rest


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ParseError("a challenge's id is 32 hex characters")
    return text
