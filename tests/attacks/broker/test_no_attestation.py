"""Keys are asked for without attestation, by a node that does not say who it is, or by an owner in a node's place."""

from __future__ import annotations

import base64

import pytest
from support.broker_attacks import Granted, Raw, code_of
from support.broker_world import World

from confide.crypto.tls import PinnedSpki, connect
from confide.errors import BindingError
from confide.ids import Nonce, ReportData, RunId, Tee
from confide.keys.sessions import Peer


def test_hand_made_node_that_breaks_nothing_gets_the_key(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert raw.release(granted.manifest) == "ok"


def test_no_key_without_attestation(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.release(granted.manifest) == "binding-mismatch"
    raw.auth()
    assert raw.release(granted.manifest) == "binding-mismatch"
    assert ("session", "binding-mismatch") in world.refusals()


def test_node_without_a_tls_key_is_refused(world: World) -> None:
    raw = Raw(world)
    host, port = world.server.url.removeprefix("https://").split(":")
    raw.channel = connect(host, int(port), None, trust=PinnedSpki(world.server.spki))
    began = raw.send("/kbs/v0/auth", {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
    assert began.json is not None
    raw.cookie = {"cookie": began.headers["set-cookie"].partition(";")[0]}
    # Without a key it is a guest to the server, whose sessions know no role and no job.
    assert raw.attest(raw.message(Nonce(base64.b64decode(began.json["nonce"])))) == "parse"


def test_session_without_a_tls_key_is_refused_wherever_it_comes_from(world: World) -> None:
    node, peer = world.node(), Peer(bytes(32), None)
    session, challenge = world.broker.auth(peer, {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
    runtime = {"nonce": challenge["nonce"], "tee-pubkey": node.context.seal, "confide-context": node.context.to_json(), "role": "worker"}
    evidence = {"primary_evidence": node.attester.quote(ReportData(bytes(64))).to_json(), "additional_evidence": ""}
    with pytest.raises(BindingError, match="must show a key"):
        world.broker.attest(peer, session, {"runtime-data": runtime, "tee-evidence": evidence})


def test_attested_node_is_no_owner_and_an_owner_is_no_node(world: World) -> None:
    granted = Granted(world)
    raw = Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert code_of(raw.send("/confide/v0/open", {"manifest": granted.manifest})) == "credential-refused"
    owner = Raw(world, world.node(attester=world.attester(measurement="cd" * 32)))
    host, port = world.server.url.removeprefix("https://").split(":")
    owner.channel = connect(host, int(port), world.credential("airline").identity(), trust=PinnedSpki(world.server.spki))
    assert owner.release(granted.manifest) == "binding-mismatch"


@pytest.mark.parametrize("run", ["../x", "UPPER", "a" * 200])
def test_context_with_a_bad_name_is_refused_before_anything_is_stored(world: World, run: str) -> None:
    raw = Raw(world)
    nonce = raw.auth()
    message = raw.message(nonce)
    message["runtime-data"]["confide-context"]["run"] = RunId(run)
    assert raw.attest(message) == "parse"


def test_kinds_of_tee_are_a_closed_list(world: World) -> None:
    raw = Raw(world)
    assert code_of(raw.send("/kbs/v0/auth", {"version": "0.4.0", "tee": "sample", "extra-params": {}})) == "parse"
    assert code_of(raw.send("/kbs/v0/auth", {"version": "0.1.0", "tee": Tee.SGX.value, "extra-params": {}})) == "parse"
