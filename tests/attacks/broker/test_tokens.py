"""Tokens of a real OpenID provider, and every way to pass one off: each is refused, and the genuine one counts before and after."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from jwcrypto.jwk import JWK
from support.broker_world import JOB, World, policy
from support.oidc_issuer import AUDIENCE, Issuer, new_keys, thumbprint

from confide.attest.insecure import Installation
from confide.errors import ConfideError, CredentialError, IssuerError
from confide.keys import token_keys
from confide.keys.client import OwnerClient
from confide.keys.roles import MAY, Office
from confide.keys.token_issuers import NEVER, OwnerIssuer


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    made = Issuer(tmp_path_factory.mktemp("issuer"))
    yield made
    made.stop()


class Broker:
    """A broker that believes an issuer, and its owner ``clinic`` whose tokens are those of ``clinic-app``."""

    def __init__(self, folder: Path, tee: Installation, issuer: Issuer, *issuers: OwnerIssuer) -> None:
        self.issuer = issuer
        self.world = World(folder, tee, issuers=issuers or (issuer.believed(),))
        self.by_key = self.world.owner("clinic")
        self.by_key.create_key("records")
        self.by_key.link_token(issuer.token())

    def by_token(self, token: str | Callable[[], str], who: str = "anybody", certificate: bytes | None = None) -> OwnerClient:
        source = token if callable(token) else lambda: token
        made = OwnerClient(
            self.world.server.url, self.world.server.spki, self.world.credential(who), token=source, certificate=certificate, timeout=20
        )
        return self.world._clean.enter_context(made)

    def refused(self, token: str, **options: Any) -> ConfideError:
        with pytest.raises(ConfideError) as caught:
            self.by_token(token, **options).keys()
        assert token not in str(caught.value) + str(self.world.store.audit())
        return caught.value


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


# --- what does not ----------------------------------------------------------------------------------------------------


def _unsigned(issuer: Issuer) -> str:
    return _with_header(issuer, {"alg": "none", "typ": "at+jwt"}).rpartition(".")[0] + ".AA"


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


NOW = int(time.time())
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
    "expired": (lambda i: i.forge(iat=NOW - 4000, exp=NOW - 3000), "expired"),
    "not yet": (lambda i: i.forge(nbf=NOW + 4000), "not valid yet"),
    "issued in the future": (lambda i: i.forge(iat=NOW + 1000, exp=NOW + 2000), "not valid yet"),
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
    assert "withdrawn" in broker.refused(broker.issuer.token()).message


def test_issuer_speaks_only_for_the_tenants_that_it_is_named_for(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    broker = Broker(tmp_path, tee, issuer)
    with closing(broker.world) as world:
        bank = world.owner("bank", tenant="finance")
        for person in (bank, world.owner("ops", tenant="*", office=Office.OPERATOR)):
            with pytest.raises(CredentialError, match="does not speak for"):
                person.link_token(issuer.token("rsa-app"))


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


# --- issuers that are away, slow, or hostile ------------------------------------------------------------------------------


class Hostile:
    """An https server in an issuer's place that answers what it is told to."""

    def __init__(self, tls: Any) -> None:
        self.reply: Callable[[BaseHTTPRequestHandler], None] = lambda handler: handler.send_error(500)
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.reply(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = tls.for_server().wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, body: bytes, *, length: int | None = None, pause: float = 0.0) -> None:
        def reply(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(pause)
            handler.send_response(200)
            handler.send_header("content-length", str(len(body) if length is None else length))
            handler.end_headers()
            try:
                sent = 0
                while sent < (len(body) if length is None else length):
                    sent += handler.wfile.write(body)
            except OSError:
                return

        self.reply = reply


@pytest.fixture
def hostile(issuer: Issuer) -> Iterator[Hostile]:
    made = Hostile(issuer.tls)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "_TIMEOUT_S", 0.5)
    monkeypatch.setattr(token_keys, "_TOTAL_S", 1.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["500", "garbage", "another's metadata", "keys over http", "no keys", "1 GB", "slow"])
def test_issuer_that_misbehaves_costs_its_own_tokens_and_nothing_else(
    tmp_path: Path, tee: Installation, issuer: Issuer, hostile: Hostile, how: str
) -> None:
    metadata = {"issuer": hostile.url, "jwks_uri": f"{hostile.url}/jwks"}
    {
        "500": lambda: None,
        "garbage": lambda: hostile.says(b"<html>"),
        "another's metadata": lambda: hostile.says(
            json.dumps({**metadata, "issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}).encode()
        ),
        "keys over http": lambda: hostile.says(json.dumps({**metadata, "jwks_uri": "http://127.0.0.1:1/jwks"}).encode()),
        "no keys": lambda: hostile.says(json.dumps(metadata).encode()),
        "1 GB": lambda: hostile.says(b"a" * 65536, length=1 << 30),
        "slow": lambda: hostile.says(b"{}", pause=3.0),
    }[how]()
    broker = Broker(tmp_path, tee, issuer, issuer.believed(), issuer.believed(issuer=hostile.url))
    with closing(broker.world):
        begun = time.monotonic()
        error = broker.refused(issuer.forge(iss=hostile.url))
        assert error.code in {"issuer-unavailable", "credential-refused"}
        assert (error.code == "issuer-unavailable") == (how != "no keys")
        assert time.monotonic() - begun < 20
        asked = hostile.asked
        for _ in range(5):
            broker.refused(issuer.forge(iss=hostile.url))
        assert hostile.asked <= asked + 1, "it is asked again and again"
        broker.by_token(issuer.token()).keys()


def test_issuer_under_another_ca_is_not_asked(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    from support.custody.tls import Tls

    world = World(tmp_path, tee, issuers=(issuer.believed(ca_file=Tls(tmp_path / "other").ca),))
    with closing(world), pytest.raises(IssuerError):
        world.owner("clinic").link_token(issuer.token())


def test_rotated_key_counts_soon_and_made_up_ids_are_no_flood(tmp_path: Path, tee: Installation) -> None:
    (tmp_path / "own").mkdir()
    own = Issuer(tmp_path / "own")
    broker = Broker(tmp_path, tee, own)
    try:
        old = own.token()
        own.rotate()
        new = own.token()
        assert "no key" in broker.refused(new).message  # asked less than 30 seconds ago
        broker.world.ahead = timedelta(seconds=31)
        broker.by_token(new).keys()
        broker.world.ahead = timedelta(minutes=5)
        assert "no key" in broker.refused(old).message
        own.stop()
        broker.by_token(new).keys()  # kept for a while
    finally:
        own.stop()
        broker.world.close()


def test_keys_of_a_file_need_no_network(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.export_public(as_dict=True) for key in issuer.keys]}), encoding="utf-8")
    world = World(tmp_path, tee, issuers=(OwnerIssuer(issuer=issuer.url, audience=AUDIENCE, clients=("clinic-app",), jwks_file=file),))
    with closing(world):
        world.owner("clinic").link_token(issuer.token())
        file.unlink()
        with pytest.raises(IssuerError):
            world.owner("bob").link_token(issuer.token("rsa-app"))
