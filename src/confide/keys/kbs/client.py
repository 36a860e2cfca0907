"""A guest's side: takes resources from any key broker service of KBS protocol 0.4.0.  Fails closed.

A resource comes out of an encrypted answer that opens with this guest's key, or not at all: a status of 200 with anything else, a status of
500, half an answer or a slow one is :class:`~confide.errors.KbsError`.

A server that asks for a pause (status 429, or 503 with ``Retry-After``) is given it, if it is short, and asked again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final, Self, TypeVar

from confide.attest.collect import Attester
from confide.attest.init_data import InitData
from confide.canonical import Json
from confide.crypto.http import request
from confide.crypto.http_messages import Duplex, Response
from confide.crypto.retry_after import pause_asked
from confide.crypto.secret import SecretBytes
from confide.errors import (
    AttestationError,
    ChannelError,
    ConfideError,
    KbsError,
    ParseError,
    ProtocolError,
    RateLimitedError,
    ResourceDeniedError,
    ResourceMissingError,
    UnwrapError,
)
from confide.keys.connection import https_address
from confide.keys.kbs.messages import COOKIE, ERRORS, AttestRequest, AuthRequest, GuestTee, report_data
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.tee_evidence import json_of_evidence
from confide.keys.kbs.tee_key import KeyKind, TeeKey
from confide.keys.kbs.transport import KbsTrust, open_channel

_PREFIX: Final = "/kbs/v0"
_NONCES: Final = range(8, 129)
_MAX_TOKEN: Final = 64 * 1024
_MAX_DETAIL: Final = 200
PATIENCE_S: Final = 20.0
"""How long a guest waits for a server that asks for pauses, in seconds, all pauses for one resource together."""
_LEAST_PAUSE_S: Final = 0.5
"""The first pause where the server asks for a shorter one or says no time; the next ones are twice as long each."""
_T = TypeVar("_T")


class KbsClient:
    """One guest at one KBS.  Attests when first used, and once again if its session has ended.  Not for several threads at once.

    ``timeout`` is for each request, whole, ``patience`` for all pauses that the server asks for until a resource is there.
    ``init_data`` is what this guest was started with: the KBS compares it with the evidence.
    """

    def __init__(
        self,
        url: str,
        trust: KbsTrust,
        *,
        attester: Attester,
        kind: KeyKind = KeyKind.P256,
        init_data: InitData | None = None,
        timeout: float = 10.0,
        patience: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        https_address(url, "key broker service")
        self._url = url
        self._trust = trust
        self._attester = attester
        self._key = TeeKey.generate(kind)
        self._init_data = init_data
        self._timeout = timeout
        self._patience = patience
        self._sleep = sleep
        self._channel: Duplex | None = None
        self._cookie: str | None = None

    def resource(self, name: ResourceName) -> SecretBytes:
        """The resource.

        Raises:
            AttestationError: the KBS refused this guest's evidence.
            ResourceDeniedError: the KBS does not give this guest the resource.
            ResourceMissingError: the KBS has no such resource.
            RateLimitedError: the KBS is asked too often, and wants a longer pause than this guest's patience.
            KbsError: anything else that is not the encrypted resource.
        """
        return self._patiently(lambda: self._resource(name))

    def _resource(self, name: ResourceName) -> SecretBytes:
        for _ in range(2):
            known = self._cookie is not None
            if not known:
                self._attest()
            answer = self._call("GET", f"/resource/{name.path}", None)
            if answer.status == 200:
                return self._opened(answer)
            if answer.status != 401 or not known:
                break
            self._cookie = None  # the session has ended: attest anew, once
        raise _refusal(answer, name)

    def attest(self) -> str:
        """Begin a session and show evidence.  Returns the KBS's token, which says what was found (a JWT, not looked into).

        Raises:
            AttestationError: the KBS refused the evidence.
            RateLimitedError, KbsError: as :meth:`resource`.
        """
        return self._patiently(self._attest)

    def _attest(self) -> str:
        self._cookie = None
        challenge = self._call("POST", "/auth", AuthRequest(GuestTee(self._attester.tee.value)).to_json())
        nonce = _nonce(self._expect(challenge))
        self._cookie = _cookie(challenge)
        evidence = self._attester.quote(report_data(nonce, self._key.public))
        message = AttestRequest(nonce, self._key.public, json_of_evidence(evidence), "", self._init_data)
        try:
            return _token(self._expect(self._call("POST", "/attest", message.to_json())))
        except ConfideError:
            self._cookie = None
            raise

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """What ``ask`` returns, after the pauses that the server asks for.  An attestation is begun anew: its nonce may be used up."""
        left, own = self._patience, _LEAST_PAUSE_S
        while True:
            try:
                return ask()
            except (RateLimitedError, KbsError) as error:
                asked = error.facts.get("retry_after_s")
                if not isinstance(asked, float):
                    raise
                pause = max(asked, own) * random.uniform(1.0, 1.25)  # so that guests that were started together do not come back at once
                if pause > left:
                    raise
                left, own = left - pause, 2 * own
                self._sleep(pause)

    def _call(self, method: str, path: str, body: Json | None) -> Response:
        """One request on a connection of its own: servers end idle ones, and a session lives in the cookie."""
        headers = {} if self._cookie is None else {"cookie": f"{COOKIE}={self._cookie}"}
        self.close()
        try:
            self._channel = open_channel(self._url, self._trust, self._timeout)
            answer = request(self._channel, method, _PREFIX + path, body, headers, types=None, timeout=self._timeout)
        except (ChannelError, ProtocolError) as cause:
            raise KbsError(f"the key broker service did not answer as it must: {cause.message}", cause=cause.code) from cause
        finally:
            self.close()
        _see_that_it_has_time(answer)
        return answer

    def _expect(self, answer: Response) -> Json:
        """The body of a 200 answer of auth or attest."""
        if answer.status == 200 and answer.json is not None:
            return answer.json
        if answer.status in {401, 403}:
            raise AttestationError(f"the key broker service refused this guest: {_detail(answer)}", status=answer.status)
        raise KbsError("the key broker service answered with something else than a result", status=answer.status)

    def _opened(self, answer: Response) -> SecretBytes:
        try:
            return self._key.open(answer.json)
        except UnwrapError as cause:
            raise KbsError(f"the key broker service's answer is no resource for this guest: {cause.message}") from None


def _see_that_it_has_time(answer: Response) -> None:
    """Nothing, unless the answer is that the server has no time now.  Both are facts of the server's word: no resource comes of them.

    Raises:
        RateLimitedError: too many requests (RFC 6585, section 4).
        KbsError: it says when it will be there again (RFC 9110, section 15.6.4); without a time, it is as any other failure.
    """
    asked = pause_asked(answer.headers.get("retry-after"))
    if answer.status == 429:
        wait = _LEAST_PAUSE_S if asked is None else asked
        raise RateLimitedError("the key broker service is asked too often", retry_after_s=wait, detail=_detail(answer))
    if answer.status == 503 and asked is not None:
        message, hint = "the key broker service has no time now", "ask again after retry_after_s seconds"
        raise KbsError(message, hint=hint, status=503, retry_after_s=asked)


def _refusal(answer: Response, name: ResourceName) -> ConfideError:
    if answer.status == 404 and answer.json is not None:
        return ResourceMissingError(f"the key broker service has no resource {name.path}", resource=name.path)
    if answer.status in {401, 403}:
        return ResourceDeniedError(f"the key broker service does not give this guest {name.path}: {_detail(answer)}", resource=name.path)
    return KbsError("the key broker service answered with something else than a resource", status=answer.status)


def _nonce(challenge: Json) -> str:
    """The challenge's nonce.

    Raises:
        KbsError: there is none, or the KBS asks for a digest that was not offered.
    """
    nonce, extra = challenge.get("nonce"), challenge.get("extra-params")
    if not isinstance(nonce, str) or len(nonce) not in _NONCES:
        raise KbsError("the key broker service's challenge has no nonce")
    chosen = extra.get("selected-hash-algorithm", "sha384") if isinstance(extra, dict) else "sha384"
    if str(chosen).lower() not in {"sha384", "sha-384"}:
        raise KbsError("the key broker service chose a digest that was not offered", got=str(chosen)[:40])
    return nonce


def _cookie(answer: Response) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(answer.headers.get("set-cookie", ""))
        return cookies[COOKIE].value
    except (CookieError, KeyError):
        raise KbsError("the key broker service began no session") from None


def _token(answer: Json) -> str:
    token = answer.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= _MAX_TOKEN:
        raise KbsError("the key broker service's answer has no token")
    return token


def _detail(answer: Response) -> str:
    """What the KBS says of a refusal: its words, cut short and plain."""
    body = answer.json or {}
    kind, detail = (str(body.get(name, "")) for name in ("type", "detail"))
    return ascii(f"{kind.removeprefix(ERRORS)}: {detail}"[:_MAX_DETAIL])[1:-1]


def resource_of_uri(uri: str) -> tuple[str | None, ResourceName]:
    """The KBS's address, if it is named, and the resource of ``kbs://[HOST[:PORT]]/repository/type/tag``.

    Raises:
        ParseError: not such a URI.
    """
    if not uri.startswith("kbs://"):
        raise ParseError("not a resource's URI: kbs://HOST:PORT/repository/type/tag", got=ascii(uri[:120]))
    host, _, path = uri.removeprefix("kbs://").partition("/")
    return (f"https://{host}" if host else None), ResourceName.parse(path)
