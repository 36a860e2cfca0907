"""``confide attest token``: verify what other verifiers, or Confide itself, state in signed tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.evidence import check_rows, checks_json, time_of
from confide.cli.output import Context, answers, print_facts, print_table, say
from confide.errors import AppraisalError, ParseError, TokenMisdirectedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from jwcrypto.jwk import JWK

    from confide.attest.policy import Policy
    from confide.attest.tokens.issuers import TokenIssuer
    from confide.canonical import Json

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("token")
def command() -> None:
    """Verify tokens: Confide's own (EAR), Intel Trust Authority's, Azure Attestation's.  `confide attest show FILE` explains one."""


@dataclass(frozen=True)
class _Reader:
    """By whom, for whom and in answer to what an EAR has to be."""

    issuer: str | None
    issuer_key: Path | None
    audience: str | None
    nonce: str | None


@command.command("verify")
@click.argument("file", type=_FILE)
@click.option("--policy", "by", type=_FILE, help="Appraise a token of a verifier that this policy names in token_issuers.")
@click.option("--issuer", metavar="NAME", help="Read an EAR of this issuer.")
@click.option("--issuer-key", type=_FILE, help="The issuer's public key, PEM or JWK.")
@click.option("--audience", metavar="NAME", help="For whom the EAR has to be.")
@click.option("--nonce", metavar="TEXT", help="What the EAR has to answer.")
@click.option("--at", metavar="TIME", help="Judge as of this time, ISO 8601 [default: now].")
@click.option("--offline", is_flag=True, help="Fetch no keys: the policy has to hold them (jwks).")
@answers
def verify(context: Context, file: Path, by: Path | None, at: str | None, *, offline: bool, **reader: Any) -> None:
    """Verify the token in FILE: is it genuine, of this time, and for whom it should be?

    With --policy, a token of Intel Trust Authority or Azure Attestation: the policy names its issuer, and each line of the policy is
    shown, expected and got.  With --issuer, --issuer-key and --audience, an EAR.

    Whom the evidence behind a token was made for (its report data) is shown and not judged.  The exit status is 3 if the token is refused.
    """
    from confide.attest.evidence_files import read_file

    now = time_of(at)
    try:
        text = read_file(file).decode("ascii").strip()
    except UnicodeDecodeError as cause:
        raise ParseError(f"{file} holds no token", path=str(file)) from cause
    wanted = _Reader(**reader)
    if by is not None:
        if any((wanted.issuer, wanted.issuer_key, wanted.audience, wanted.nonce)):
            raise UsageError("--policy judges tokens of other verifiers; --issuer, --issuer-key, --audience and --nonce are for an EAR")
        _by_policy(context, text, by, now, offline=offline)
        return
    _ear(context, text, wanted, now)


def _ear(context: Context, text: str, wanted: _Reader, now: datetime) -> None:
    from confide.attest.ear import EarReader

    if not (wanted.issuer and wanted.issuer_key and wanted.audience):
        raise UsageError("whose token, and for whom?", hint="give --policy, or --issuer, --issuer-key and --audience")
    claims = EarReader(wanted.issuer, _public_key(wanted.issuer_key), wanted.audience).read(text, nonce=wanted.nonce, now=now)

    def show() -> None:
        say(f"genuine: an EAR of {claims.issuer} for {claims.audience}, status {claims.status}; bound to no session here")
        print_facts({"id": claims.token_id, "policy": claims.policy_id, "until": claims.validity.expires_at.isoformat(), **claims.vector})

    context.answer({"genuine": True, "at": now.isoformat(), "claims": claims.to_json()}, show)


def _by_policy(context: Context, text: str, by: Path, now: datetime, *, offline: bool) -> None:
    from confide.attest.policy import Policy
    from confide.attest.tokens.jwks import IssuerKeys
    from confide.attest.tokens.verified import verify_token
    from confide.attest.vendor_http import Http

    policy = Policy.load(by)
    keys = IssuerKeys(None if offline else Http(ca_file=context.settings.service_ca_file))
    token = verify_token(text, _named_issuer(policy, text), keys, now=now)
    checks = policy.explain(token, now=now)
    claims, accepted = token.claims, all(check.ok for check in checks)
    value: Json = {"genuine": True, "accepted": accepted, "at": now.isoformat(), "issuer": token.issuer.issuer, "id": token.token_id}

    context.answer({**value, "claims": claims.to_json(), "checks": checks_json(checks)}, _shower(token.issuer.issuer, checks))
    if not accepted:
        raise click.exceptions.Exit(AppraisalError.exit_status)


def _shower(issuer: str, checks: list[Any]) -> Callable[[], None]:
    def show() -> None:
        say(f"genuine: a token of {issuer}")
        print_table(("ok", "check", "got", "expected"), check_rows(checks))

    return show


def _named_issuer(policy: Policy, text: str) -> TokenIssuer:
    """The entry of the policy for the issuer that the token names; what it is worth, its signature says afterwards.

    Raises:
        TokenMisdirectedError: the policy names no such issuer.
    """
    from confide.attest.policy import Rules
    from confide.attest.tokens.jwt import UnverifiedJwt

    said = UnverifiedJwt.parse(text).unverified_claims().get("iss")
    named = [entry for part in policy.walk() if isinstance(part, Rules) for entry in part.token_issuers]
    for entry in named:
        if entry.issuer == said:
            return entry
    known = ", ".join(sorted({entry.issuer for entry in named})) or "none"
    raise TokenMisdirectedError("the policy does not name the token's issuer", expected=known, got=str(said)[:120])


def _public_key(path: Path) -> JWK:
    from jwcrypto.common import JWException
    from jwcrypto.jwk import JWK

    from confide.attest.evidence_files import read_file

    data = read_file(path)
    try:
        key = JWK.from_pem(data) if data.startswith(b"-----BEGIN") else JWK.from_json(data.decode("utf-8"))
    except (JWException, ValueError, TypeError) as cause:
        raise ParseError(f"{path} holds no public key", path=str(path)) from cause
    if key.is_symmetric or key.has_private:
        raise UsageError(f"{path} holds a secret key", hint="tokens are verified with the issuer's public key", path=str(path))
    return key
