"""A relay that sees what the broker answers, and a seal key that is not the attested node's."""

from __future__ import annotations

import pytest
from support.broker_attacks import Granted, Raw
from support.broker_world import JOB, RUN, World

from confide.crypto.seal import SealKey
from confide.errors import UnwrapError


def test_key_to_seal_to_must_be_the_attested_one(world: World) -> None:
    raw = Raw(world)
    message = raw.message(raw.auth())
    message["runtime-data"]["tee-pubkey"] = SealKey.generate().public_jwk()
    assert raw.attest(message) == "binding-mismatch"


def test_sealed_key_opens_with_the_nodes_own_seal_key_only(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    answer = raw.send("/confide/v0/release", {"manifest": granted.manifest, "purpose": "read"}).json
    assert answer is not None
    context = {"dataset": granted.minted.dataset, "job": JOB, "run": RUN, "purpose": "read"}
    with pytest.raises(UnwrapError):
        SealKey.generate().open(answer["jwe"], context=context)
    with pytest.raises(UnwrapError):
        raw.node.seal_key.open(answer["jwe"], context={**context, "purpose": "write"})
    assert raw.node.seal_key.open(answer["jwe"], context=context).reveal() == granted.minted.secret.reveal()
