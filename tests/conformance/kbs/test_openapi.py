"""The published OpenAPI document against the real server: every form that it describes is what the server takes and answers.

schemathesis makes requests from the document, good and bad, and checks each answer's status, type and body against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from support import broker_world
from support.kbs_world import Kbs

from confide.attest.insecure import Installation
from confide.keys.kbs import routes

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "kbs.openapi.yaml"
schema = schemathesis.openapi.from_path(DOCUMENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Where the server is, and what a client has to show: the CA of its certificate, an owner's key, a guest's cookie."""
    folder = tmp_path_factory.mktemp("openapi")
    world = broker_world.World(folder, Installation.create(folder / "simulated"))
    kbs = Kbs(world)
    identity = world.credential("airline").identity()
    (folder / "ca.pem").write_bytes(world.server.certificate_pem)
    (folder / "client.pem").write_bytes(identity.certificate_pem)
    key = folder / "credentials" / "airline.key.pem"
    yield {
        "url": world.server.url,
        "verify": str(folder / "ca.pem"),
        "cert": (str(folder / "client.pem"), str(key)),
        "cookie": kbs.guest().ready().cookie.partition("=")[2],
    }
    world.close()


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_server_answers_as_the_document_says(case: Any, server: dict[str, Any]) -> None:
    owner = "owner" in case.operation.tags
    cookies = {} if owner else {**(case.cookies or {}), "kbs-session-id": server["cookie"]}
    certificate = {"cert": server["cert"]} if owner else {}
    # A schema cannot say what has to be within base64, nor what evidence is genuine; and a TLS key cannot be left out of a request.
    excluded = [positive_data_acceptance, *([ignored_auth] if owner else [])]
    case.call_and_validate(
        base_url=server["url"],
        verify=server["verify"],
        cookies=cookies,
        excluded_checks=excluded,
        timeout=20,
        **certificate,
    )


def test_document_has_every_route_of_the_server_and_no_other() -> None:
    described = set(schema.raw_schema["paths"])
    served = {*routes._METHODS, "/kbs/v0/resource/{repository}/{type}/{tag}"}
    assert described == served
    for path, methods in routes._METHODS.items():
        assert {name.upper() for name in schema.raw_schema["paths"][path] if name != "parameters"} == methods
