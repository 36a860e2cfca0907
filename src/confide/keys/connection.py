"""One connection from a client to the pinned broker, and the strict reading of its answers.  Fail closed.

The only place that looks at statuses: 200 with a JSON object is an answer, a problem object with a 4xx status and a code of ours is a
refusal, and everything else is a :class:`~confide.errors.BrokerError`.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from confide.attest.policy import Policy
from confide.canonical import Json, check_numbers, from_b64url
from confide.crypto.derive import KEY_BYTES, check_dataset_id
from confide.crypto.envelope import WrappedKey
from confide.crypto.http import request
from confide.crypto.http_messages import JSON_TYPE, PROBLEM_TYPE, Response
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey
from confide.crypto.tls import Channel, Identity, PinnedSpki, connect
from confide.errors import (
    BrokerError,
    ChannelError,
    ChannelTimeoutError,
    ParseError,
    PolicyError,
    ProtocolError,
    RateLimitedError,
    StepUnknownError,
    StoreError,
    UsageError,
    error_from_json,
    leaf_of,
)
from confide.ids import DatasetId, KeyRef, SpkiDigest
from confide.keys.grants import GrantRef
from confide.keys.times import utc_time

_HTTP_OK: Final = 200
_UNAVAILABLE: Final = 503
_REFUSED: Final = range(400, 500)
_FAILED: Final = range(400, 600)
HTML_TYPE: Final = "text/html"
_IDLE_REUSE_S: Final = 20.0
"""A connection that was idle for longer is opened anew: the broker may have ended it."""
_LEAST_PAUSE_S: Final = 0.05
_SPKI = re.compile(r"[0-9a-f]{64}")


class Connection:
    """One TLS connection to the pinned broker, opened when needed.  The only place that looks at statuses."""

    def __init__(
        self, url: str, spki: SpkiDigest, identity: Identity, timeout: float, *, token: Callable[[], str] | None = None
    ) -> None:
        """``token``: where the token for each request comes from, if it is a token that says who asks."""
        self._host, self._port = https_address(url)
        if not _SPKI.fullmatch(spki):
            raise UsageError("the broker's key is given as the SHA-256 of its public key in hex", got=spki[:80])
        self._trust = PinnedSpki(spki)
        self._identity = identity
        self._timeout = timeout
        self._token = token
        self._channel: Channel | None = None
        self._used = 0.0
        self.reached = False
        """Whether the broker was ever there: this is its address, and it has the key."""

    def channel(self) -> tuple[Channel, bool]:
        """The open channel, and whether it is a new one."""
        held = self._channel
        if held is not None and not held.closed and not held.stirred and time.monotonic() - self._used < _IDLE_REUSE_S:
            return held, False
        self.close()
        try:
            made = connect(self._host, self._port, self._identity, trust=self._trust, timeout=self._timeout)
        except ChannelError as cause:
            raise BrokerError(f"the broker cannot be reached: {cause.message}", hint=cause.hint, **cause.facts) from cause
        self._channel, self._used, self.reached = made, time.monotonic(), True
        return made, True

    def call(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        on: Channel | None = None,
    ) -> tuple[Json, Mapping[str, str]]:
        """The body and headers of a 200 answer.  With ``on`` it is asked for on that channel or not at all.

        Who is told to come back later does, as long as all of it stays within the timeout.

        Raises:
            RateLimitedError: the pause that the broker asks for is longer than that.
            ConfideError: the broker refused; the leaf that it named.
            BrokerError: anything else that is not a 200 with one JSON object.  See :func:`was_lost`.
            UsageError: the body holds a number that JSON does not carry.
        """
        deadline, pause = time.monotonic() + self._timeout, 0.0
        while True:
            try:
                response = self._ask(method, path, body, headers, on=on)
                return _expect(response), response.headers
            except RateLimitedError as refusal:
                asked = refusal.facts.get("retry_after_s")
                pause = max(2 * pause, float(asked) if isinstance(asked, int | float) else _LEAST_PAUSE_S, _LEAST_PAUSE_S)
                wait = pause * random.uniform(1.0, 1.5)  # so that all who were refused do not come back at once
                if time.monotonic() + wait >= deadline:
                    raise
                time.sleep(wait)

    def page(self, path: str) -> tuple[int, str]:
        """Status and HTML of a page.  It is the broker's word, for people to read: nothing here decides by it.

        Raises:
            ConfideError: the broker refused without a page.
            BrokerError: the answer is neither a page nor a refusal.
        """
        response = self._ask("GET", path, text_type=HTML_TYPE)
        if response.text is not None and (response.status == _HTTP_OK or response.status in _FAILED):
            return response.status, response.text
        _expect(response)
        raise BrokerError("the broker answered with something else than a page", status=response.status)

    def _ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        text_type: str | None = None,
        on: Channel | None = None,
    ) -> Response:
        channel = on or self.channel()[0]
        sent = dict(headers or {}) if self._token is None else {**(headers or {}), "authorization": f"Bearer {self._token()}"}
        check_numbers(body)
        try:
            response = request(channel, method, path, body, sent, text_type=text_type, timeout=self._timeout)
        except (ChannelError, ProtocolError) as cause:
            raise BrokerError(f"the broker did not answer as it must: {cause.message}", hint=cause.hint, **cause.facts) from cause
        self._used = time.monotonic()
        return response

    def broker_key(self) -> PublicKey:
        """The broker's public key, which TLS has proved and the pin has checked."""
        channel, _ = self.channel()
        if channel.peer_spki is None:
            raise BrokerError("the broker showed no key")
        return PublicKey.from_spki(channel.peer_spki)

    def close(self) -> None:
        """End the connection, if there is one.  Safe to call from any thread: a request that another has under way ends by it."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def was_lost(error: BrokerError) -> bool:
    """Whether nothing was answered because the connection ended or could not be made, as when a broker ends or starts anew.

    Not so if it was silent for too long.  What was asked may have been done all the same.
    """
    return isinstance(error.__cause__, ChannelError) and not isinstance(error.__cause__, ChannelTimeoutError)


def https_address(url: str, whose: str = "broker") -> tuple[str, int]:
    """Host and port of ``https://HOST[:PORT]``.  There is no plain HTTP: nobody would know who answers.

    Raises:
        UsageError: it is another thing.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme != "https" or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(f"not a {whose}'s address: {url[:120]!r}", hint="write https://HOST:PORT")
    return host, port or 443


def _expect(response: Response) -> Json:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status == _HTTP_OK and kind == JSON_TYPE and response.json is not None:
        return response.json
    if response.status in _REFUSED and kind == PROBLEM_TYPE and response.json is not None:
        refusal = error_from_json(response.json)
        if not isinstance(refusal, ProtocolError):
            raise refusal
        what = f"the broker does not understand the request: {refusal.message}"
        raise BrokerError(what, hint="see that client and broker are of one version of Confide", status=response.status)
    if response.status == _UNAVAILABLE and kind == PROBLEM_TYPE and response.json is not None:
        failure = error_from_json(response.json)
        if isinstance(failure, StoreError) and not isinstance(failure, StepUnknownError):
            mended = "the broker's operator finds the reason in its log; it goes on by itself once that is mended"
            raise BrokerError(f"the broker cannot do this now: {failure.message}", hint=mended, status=response.status)
    # Whether a key's request is to be tried again, and a command to be looked for in the audit log, is for a person to see.
    unknown = response.json is not None and leaf_of(response.json.get("code")) is StepUnknownError
    hint = StepUnknownError.default_hint if unknown else None
    raise BrokerError("the broker answered with something else than a result or a refusal", hint=hint, status=response.status)


class Answer:
    """Reads fields of an answer; a missing or wrong one is a ``BrokerError``, never a default."""

    def __init__(self, data: Json) -> None:
        self._data = data

    def field(self, name: str, kind: type[Any]) -> Any:
        """A field of that type."""
        value = self._data.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BrokerError("the broker's answer lacks a field", field=name)
        return value

    def flag(self, name: str) -> bool:
        """A field that is true or false."""
        value = self._data.get(name)
        if not isinstance(value, bool):
            raise BrokerError("the broker's answer lacks a field", field=name)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self.field(name, list)
        if not all(isinstance(value, str) for value in values):
            raise BrokerError("the broker's answer has a wrong field", field=name)
        return tuple(values)

    def has(self, name: str) -> bool:
        """Whether there is such a field: for requests that have one of several answers."""
        return name in self._data

    def objects(self, name: str) -> list[Json]:
        """A list of objects."""
        values = self.field(name, list)
        if not all(isinstance(value, dict) for value in values):
            raise BrokerError("the broker's answer has a wrong field", field=name)
        return list(values)

    def parts(self, name: str, *, sharing: str) -> list[Answer]:
        """A list of answers; each has the field ``sharing`` of this one."""
        shared = self.field(sharing, dict)
        return [Answer({**one, sharing: shared}) for one in self.objects(name)]

    def time(self, name: str) -> datetime:
        """A time with a zone, in UTC."""
        try:
            return utc_time(self.field(name, str))
        except ValueError as cause:
            raise BrokerError("the broker's answer has a wrong time, or one without a zone", field=name) from cause

    def key_ref(self) -> KeyRef:
        """The key and its version."""
        try:
            ref = KeyRef.parse(self.field("key", str))
        except UsageError as cause:
            raise BrokerError("the broker's answer names no key", field="key") from cause
        return KeyRef(ref.owner, ref.name, self.field("version", int))

    def dataset(self) -> DatasetId:
        """The dataset's id."""
        try:
            return check_dataset_id(self.field("dataset", str))
        except ParseError as cause:
            raise BrokerError("the broker's answer names no dataset", field="dataset") from cause

    def dataset_named(self, expected: DatasetId) -> DatasetId:
        """The dataset's id, which must be the one that the request was for."""
        found = self.dataset()
        if found != expected:
            raise BrokerError("the broker answered with another dataset's key", got=found)
        return found

    def sealed_for(self) -> Json:
        """What a key that is sealed with others is bound to, in its answer's own words."""
        kinds: tuple[tuple[str, type], ...] = (("dataset", str), ("key", str), ("version", int), ("expires", str))
        return {name: self.field(name, kind) for name, kind in kinds}

    def wrapped(self) -> WrappedKey:
        """The wrapped key, which must be of the same dataset and key."""
        try:
            found = WrappedKey.from_json(self.field("wrapped", dict))
        except ParseError as cause:
            raise BrokerError("the broker's answer holds no wrapped key", field="wrapped") from cause
        if (found.dataset, found.key, found.version) != (self.dataset(), self.key_ref().id, self.key_ref().version):
            raise BrokerError("the broker's answer contradicts itself", field="wrapped")
        return found

    def grants(self) -> dict[str, GrantRef]:
        """The grants behind a release, by root key: at least one."""
        try:
            found = {KeyRef.parse(key).id: GrantRef.from_json(ref) for key, ref in self.field("grants", dict).items()}
        except (ParseError, UsageError) as cause:
            raise BrokerError("the broker's answer names no grants", field="grants") from cause
        if not found:
            raise BrokerError("the broker released a key without a grant", field="grants")
        return found

    def policies(self) -> tuple[Policy, ...]:
        """The owners' policies that the grants name, one for each digest."""
        policies = []
        for digest in sorted({ref.policy for ref in self.grants().values()}):
            try:
                policy = Policy.from_json(self.field("policies", dict).get(digest))
            except PolicyError as cause:
                raise BrokerError("the broker's answer lacks an owner's policy", field="policies") from cause
            if policy.digest != digest:
                raise BrokerError("the broker's answer has another policy than it names", field="policies")
            policies.append(policy)
        return tuple(policies)

    def dataset_key(self) -> SecretBytes:
        """A dataset key in the clear (owners and recipients only, under TLS)."""
        try:
            return as_key(SecretBytes(from_b64url(self.field("dataset_key", str))))
        except ParseError:
            raise BrokerError("the broker's answer holds no key", field="dataset_key") from None


def as_key(secret: SecretBytes) -> SecretBytes:
    """Return ``secret`` if it is as long as a key.

    Raises:
        BrokerError: it is not: whatever the broker sent, it never becomes a key.
    """
    if len(secret) != KEY_BYTES:
        raise BrokerError("what the broker answered is not a key", got=len(secret))
    return secret


def as_keys(joined: SecretBytes, count: int) -> list[SecretBytes]:
    """The ``count`` keys that lie in ``joined`` one after the other, which is wiped.

    Raises:
        BrokerError: it is as long as another number of keys.
    """
    if len(joined) != count * KEY_BYTES:
        raise BrokerError("what the broker answered are not the keys that were asked for", expected=count * KEY_BYTES, got=len(joined))
    data = joined.reveal()
    joined.wipe()
    return [SecretBytes(data[at : at + KEY_BYTES]) for at in range(0, len(data), KEY_BYTES)]
