"""Tokens of a real OpenID provider, and every way to pass one off: each is refused, and the genuine one counts before and after."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jwcrypto.jwk import JWK
from support.broker_world import JOB, World, policy
from support.oidc_issuer import Issuer, new_keys, thumbprint
from support.token_world import Broker

from confide.attest.insecure import Installation
from confide.crypto.http import request
from confide.crypto.tls import PinnedSpki, connect
from confide.errors import CredentialError
from confide.keys.client import OwnerClient
from confide.keys.roles import MAY, Office
from confide.keys.token_issuers import NEVER
from confide.keys.token_records import TokenLink


@pytest.fixture
def broker(tmp_path: Path, tee: Installation, issuer: Issuer) -> Iterator[Broker]:
    made = Broker(tmp_path, tee, issuer)
    yield made
    made.world.close()


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["clinic-app", "rsa-app", "ed-app"])
def test_token_of_a_linked_subject_says_who_asks_under_each_algorithm(broker: Broker, client: str) -> None:
    broker.by_key.link_token(broker.issuer.token(client))
    found = broker.by_token(broker.issuer.token(client)).keys()
    assert [str(info.key) for info in found] == ["clinic/records@1"]


def test_plain_bearer_reads_and_does_no_more(broker: Broker) -> None:
    client = broker.by_token(broker.issuer.token())
    client.audit()
    client.grant_list()
    for attempt in (
        lambda: client.create_key("clinic/more"),
        lambda: client.mint_dataset("clinic/records"),
        lambda: client.grant("clinic/records", job=JOB, policy=policy()),
        lambda: client.rotate_key("clinic/records"),
    ):
        with pytest.raises(CredentialError, match="not good for this"):
            attempt()


def test_token_bound_to_the_clients_certificate_does_what_the_key_does(broker: Broker) -> None:
    identity = broker.world.credential("laptop").identity()
    token = broker.issuer.token("bound-app", identity=identity)
    with pytest.raises(CredentialError, match="another client's certificate"):
        broker.by_key.link_token(token)
    own = broker.world.credential("clinic").identity()
    link = OwnerClient(
        broker.world.server.url, broker.world.server.spki, broker.world.credential("clinic"), certificate=own.certificate_pem
    )
    link.link_token(broker.issuer.token("bound-app", identity=own))
    link.close()
    client = broker.by_token(token, "laptop", identity.certificate_pem)
    assert len(client.mint_dataset("clinic/records").secret.reveal()) == 32
    assert client.grant("clinic/records", job=JOB, policy=policy()).key == "clinic/records"


def test_commands_named_plain_in_the_brokers_file_take_a_plain_bearer(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    with closing(Broker(tmp_path, tee, issuer, issuer.believed(plain=frozenset({"mint"}))).world) as world:
        client = OwnerClient(world.server.url, world.server.spki, world.credential("anybody"), token=issuer.token)
        client.mint_dataset("clinic/records")
        with pytest.raises(CredentialError, match="not good for this"):
            client.rotate_key("clinic/records")
        client.close()


def test_no_token_makes_tokens(broker: Broker) -> None:
    own = broker.world.credential("clinic").identity()
    token = broker.issuer.forge(cnf={"x5t#S256": thumbprint(own)})
    client = broker.by_token(token, "clinic", own.certificate_pem)
    client.create_key("clinic/by-token")
    with pytest.raises(CredentialError, match="not good for this"):
        client.link_token(broker.issuer.token("rsa-app"))
    with pytest.raises(CredentialError, match="not good for this"):
        client.unlink_token(broker.issuer.url, "clinic-app")
    assert set(MAY) >= NEVER


def test_token_never_votes_or_exports_for_the_owner(broker: Broker) -> None:
    approver = broker.world.owner("bob")
    broker.by_key.set_approvers("records", 1, ["bob"])
    grant = broker.by_key.grant("records", job=JOB, policy=policy())
    own = broker.world.credential("laptop").identity()
    bound = broker.issuer.forge(sub="bob-app", cnf={"x5t#S256": thumbprint(own)})
    approver.link_token(broker.issuer.forge(sub="bob-app"))
    with pytest.raises(CredentialError, match="does not verify"):
        broker.by_token(bound, "laptop", own.certificate_pem).vote(grant.id, "approve")
    assert approver.vote(grant.id, "approve").standing.approved == ("bob",)


def test_owner_keeps_resources_by_token_under_the_same_rules(broker: Broker) -> None:
    def ask(token: str, identity: Any, method: str, path: str, body: Any = None) -> int:
        host, port = broker.world.server.url.removeprefix("https://").split(":")
        where, said = path if path[0] == "/" else f"/kbs/v0/{path}", {"authorization": f"Bearer {token}"}
        with connect(host, int(port), identity, trust=PinnedSpki(broker.world.server.spki)) as channel:
            return request(channel, method, where, body, said).status

    identity = broker.world.credential("laptop").identity()
    plain, bound = broker.issuer.token(), broker.issuer.forge(cnf={"x5t#S256": thumbprint(identity)})
    assert ask(plain, identity, "GET", "attestation-policy") == 200
    assert ask(plain, identity, "POST", "resource/clinic/key/a", b"x") == 401
    assert ask(bound, identity, "POST", "resource/clinic/key/a", b"x") == 200
    assert ask(bound, broker.world.credential("thief").identity(), "POST", "resource/clinic/key/a", b"y") == 401
    assert ask(bound, identity, "POST", "/confide/v0/kbs-token-keys", {"public_key": "A" * 43, "revoked": False}) == 401
    assert ask(broker.issuer.forge(sub="nobody"), broker.world.credential("clinic").identity(), "GET", "resource-policy") == 401


# --- what does not ----------------------------------------------------------------------------------------------------


def _unsigned(issuer: Issuer) -> str:
    return _with_header(issuer, {"alg": "none", "kid": "first-ec", "typ": "at+jwt"}).rpartition(".")[0] + ".AA"


def _with_header(issuer: Issuer, header: dict[str, Any]) -> str:
    """A token whose header was replaced."""
    shown = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{shown}.{issuer.forge().partition('.')[2]}"


def _hmac_of_the_public_key(issuer: Issuer) -> str:
    pem = issuer.keys[1].export_to_pem()
    key = JWK(kty="oct", k=base64.urlsafe_b64encode(pem).rstrip(b"=").decode())
    return issuer.forge(key=key, header={"alg": "HS256", "kid": "first-rsa"})


def _other_key(issuer: Issuer, **header: Any) -> str:
    return issuer.forge(key=new_keys("first")[0], header=header)


def _at(seconds: int) -> int:
    """A time that far from now, as the claims say it."""
    return int(time.time()) + seconds


FORGERIES: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "alg none": (_unsigned, "algorithm"),
    "HS256 with the public key": (_hmac_of_the_public_key, "algorithm"),
    "RSA-PSS": (lambda i: i.forge(key=i.keys[1], header={"alg": "PS256"}), "algorithm|fit|signed"),
    "another key under the same id": (_other_key, "signature"),
    "key id of a foreign key set": (lambda i: i.forge(key=new_keys("foreign")[0]), "no key"),
    "no key id": (lambda i: i.forge(header={"kid": None}), "key id"),
    "jku": (lambda i: _other_key(i, jku="https://thief.example/jwks"), "signature"),
    "own key in the header": (lambda i: _other_key(i, jwk=new_keys("first")[0].export_public(as_dict=True)), "signature"),
    "crit": (lambda i: _with_header(i, {"alg": "ES256", "kid": "first-ec", "typ": "at+jwt", "crit": ["exp"]}), "does not do"),
    "wrong audience": (lambda i: i.token(resource="https://other.example/api"), "audience"),
    "no audience": (lambda i: i.forge(drop=("aud",)), "audience"),
    "other issuer": (lambda i: i.forge(iss="https://other.example"), "issuer"),
    "issuer with a slash": (lambda i: i.forge(iss=i.url + "/"), "issuer"),
    "expired": (lambda i: i.forge(iat=_at(-4000), exp=_at(-3000)), "expired"),
    "not yet": (lambda i: i.forge(nbf=_at(4000)), "not valid yet"),
    "issued in the future": (lambda i: i.forge(iat=_at(1000), exp=_at(2000)), "not valid yet"),
    "no end": (lambda i: i.forge(drop=("exp",)), "time"),
    "two hours": (lambda i: i.token("long-app"), "longer"),
    "another client": (lambda i: i.token("stranger-app"), "another client"),
    "no client": (lambda i: i.forge(drop=("client_id",)), "another client"),
    "one client of two is another": (lambda i: i.forge(azp="stranger-app"), "another client"),
    "an ID token": (lambda i: i.forge(header={"typ": "JWT"}), "another type"),
    "a token of attestation": (lambda i: i.forge(header={"typ": "eat+jwt"}), "does not do|type"),
    "subject that nobody linked": (lambda i: i.forge(sub="somebody"), "nobody here"),
    "no subject": (lambda i: i.forge(drop=("sub",)), "claim"),
    "bound to another certificate": (lambda i: i.forge(cnf={"x5t#S256": "A" * 43}), "another client's certificate"),
    "bound to a DPoP key": (lambda i: i.forge(cnf={"jkt": "A" * 43}), "another client's certificate"),
    "bound to two things": (lambda i: i.forge(cnf={"x5t#S256": "A" * 43, "jkt": "A" * 43}), "another client's certificate"),
    "garbage": (lambda i: "a.b.c", "parse|three parts"),
    "nothing but dots": (lambda i: "...", "three parts"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_token_that_does_not_count_is_refused(broker: Broker, name: str) -> None:
    make, words = FORGERIES[name]
    error = broker.refused(make(broker.issuer))
    assert error.code == "credential-refused"
    assert any(word in error.message for word in words.split("|")), error.message
    broker.by_token(broker.issuer.token()).keys()


def test_token_of_another_client_is_no_use_to_who_steals_it(broker: Broker) -> None:
    victim = broker.world.credential("victim").identity()
    token = broker.issuer.token("bound-app", identity=victim)
    error = broker.refused(token, who="thief")
    assert "another client's certificate" in error.message


def test_wrong_token_is_not_made_up_for_by_an_enrolled_key(broker: Broker) -> None:
    assert "nobody here" in broker.refused(broker.issuer.forge(sub="somebody"), who="clinic").message


def test_subject_of_a_second_issuer_is_somebody_else(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    (tmp_path / "second").mkdir()
    second = Issuer(tmp_path / "second")
    broker = Broker(tmp_path, tee, issuer, issuer.believed(), second.believed())
    try:
        assert "nobody here" in broker.refused(second.token()).message
        crossed = issuer.forge(iss=second.url)
        assert broker.refused(crossed).code == "credential-refused"
    finally:
        second.stop()
        broker.world.close()


def test_nobody_links_what_is_anothers(broker: Broker) -> None:
    bob = broker.world.owner("bob")
    with pytest.raises(CredentialError, match="tied to another"):
        bob.link_token(broker.issuer.token())
    with pytest.raises(CredentialError, match="no such subject"):
        bob.unlink_token(broker.issuer.url, "clinic-app")
    with pytest.raises(CredentialError):
        bob.link_token(broker.issuer.forge(sub="bob", aud="other"))
    assert (bob.token_links(), len(broker.by_key.token_links())) == ([], 1)


def test_token_of_a_removed_owner_and_of_a_link_that_was_untied_count_no_more(broker: Broker) -> None:
    broker.by_key.link_token(broker.issuer.token("rsa-app"))
    broker.by_key.unlink_token(broker.issuer.url, "rsa-app")
    assert "nobody here" in broker.refused(broker.issuer.token("rsa-app")).message
    broker.world.operator().operate("withdraw", owner="clinic")
    assert "nobody here" in broker.refused(broker.issuer.token()).message
    broker.world.store.put(TokenLink(broker.issuer.url, "clinic-app", "clinic"))  # as withdrawals of earlier versions left it
    assert "withdrawn" in broker.refused(broker.issuer.token()).message


def test_issuer_speaks_only_for_the_tenants_that_it_is_named_for(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    broker = Broker(tmp_path, tee, issuer)
    with closing(broker.world) as world:
        bank = world.owner("bank", tenant="finance")
        for person in (bank, world.owner("ops", tenant="*", office=Office.OPERATOR)):
            with pytest.raises(CredentialError, match="does not speak for"):
                person.link_token(issuer.token("rsa-app"))


def test_issuer_that_no_longer_speaks_for_a_tenant_names_nobody_of_it(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    """The link outlives the broker's file: what the file says now decides."""
    broker = Broker(tmp_path, tee, issuer)
    with closing(broker.world) as world:
        broker.by_token(issuer.token()).audit()
        world.options["issuers"] = (issuer.believed(tenants=("finance",)),)
        world.restart()
        assert "nobody here" in broker.refused(issuer.token()).message


def test_group_is_needed_for_an_office_that_the_brokers_file_names(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    broker = Broker(tmp_path, tee, issuer, issuer.believed(groups={Office.AUDITOR: ("auditors",)}))
    with closing(broker.world) as world:
        carol = world.owner("carol", office=Office.AUDITOR)
        carol.link_token(issuer.token("carol-app"))
        broker.by_token(issuer.token("carol-app")).audit()
        for groups in ({}, {"groups": ["staff"]}, {"groups": "auditors"}, {"groups": {"auditors": 1}}):
            assert "groups" in broker.refused(issuer.forge(sub="carol-app", client_id="carol-app", **groups)).message


def test_address_counts_only_if_the_issuer_verified_it(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    world = World(tmp_path, tee, issuers=(issuer.believed(subject="email"),))
    with closing(world):
        clinic = world.owner("clinic")
        for claims in ({}, {"email": "c@x.example"}, {"email": "c@x.example", "email_verified": "true"}, {"email_verified": True}):
            with pytest.raises(CredentialError):
                clinic.link_token(issuer.forge(**claims))
        clinic.link_token(issuer.forge(email="c@x.example", email_verified=True))
