"""An owner who is known by tokens of an OpenID provider, at the command line; and the file that says whose tokens count."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli_broker import Broker
from support.custody.tls import private_file
from support.oidc_issuer import AUDIENCE, Issuer

from confide.cli.owners import credential_of
from confide.cli.token_source import token_source
from confide.config import Settings
from confide.errors import ConfigError, CredentialError
from confide.keys.token_issuers import load_issuers


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    made = Issuer(tmp_path_factory.mktemp("issuer"))
    yield made
    made.stop()


@pytest.fixture
def machine(tmp_path: Path, issuer: Issuer) -> Iterator[Path]:
    home = tmp_path / "machine"
    home.mkdir()
    file = home / "issuers.toml"
    file.write_text(f'[[issuer]]\nissuer = "{issuer.url}"\naudience = "{AUDIENCE}"\nclients = ["clinic-app", "bound-app"]\n'
                    f'ca_file = "{issuer.tls.ca}"\n')  # fmt: skip
    broker = Broker(home, "--key-file", home / "master.key", "--issuers", file)
    broker.wait_for("address.json")
    yield home
    broker.end(signal.SIGKILL)


def test_owner_works_with_tokens_from_a_file_and_from_a_program(confide: Any, machine: Path, tmp_path: Path, issuer: Issuer) -> None:
    home, ticket = tmp_path / "people", tmp_path / "ticket.json"
    assert confide("--home", machine, "broker", "enrol", "clinic", "--out", ticket, "--key-file", machine / "master.key").status == 0
    assert confide("--home", home, "keys", "init", "clinic", "--enrolment", ticket).status == 0
    assert confide("--home", home, "keys", "create", "clinic/records").status == 0
    assert confide("--home", home, "keys", "tokens", "link").status == 2
    token = private_file(tmp_path / "token", issuer.token() + "\n")
    config = home / "config.toml"
    config.write_text(f'token_file = "{token}"\n')
    said = confide("--home", home, "keys", "tokens", "link", "--json")
    assert said.json == {"issuer": issuer.url, "subject": "clinic-app", "owner": "clinic"}
    assert "clinic/records" in confide("--home", home, "keys", "ls").out
    said = confide("--home", home, "keys", "rotate", "clinic/records")
    assert (said.status, "not good for this" in said.err) == (4, True)

    assert confide("--home", home, "keys", "certificate", tmp_path / "bound.pem").status == 0
    settings = Settings.load(environ={}, home=home)
    identity = credential_of(settings, "clinic").identity((tmp_path / "bound.pem").read_bytes())
    bound = private_file(tmp_path / "bound-token", issuer.token("bound-app", identity=identity))
    program = f"{sys.executable} -c 'print(open(\\\"{bound}\\\").read())'"
    config.write_text(f'token_command = "{program}"\ntoken_certificate_file = "{tmp_path / "bound.pem"}"\n')
    assert confide("--home", home, "keys", "tokens", "link").status == 0
    said = confide("--home", home, "keys", "rotate", "clinic/records", "--json")
    assert (said.status, said.json["version"]) == (0, 2)
    assert confide("--home", home, "keys", "tokens", "unlink", issuer.url, "clinic-app").status == 0
    linked = confide("--home", home, "keys", "tokens", "ls", "--json").json["links"]
    assert linked == [{"issuer": issuer.url, "subject": "bound-app", "owner": "clinic"}]


def test_file_of_issuers_says_no_more_than_it_may(tmp_path: Path) -> None:
    good = {"issuer": "https://id.example", "audience": "a", "clients": ["c"]}
    file = tmp_path / "issuers.toml"

    def write(*entries: dict[str, Any]) -> Path:
        lines = [f"{name} = {json.dumps(value)}" for entry in entries for name, value in [("[[issuer]]", None), *entry.items()]]
        file.write_text("\n".join("[[issuer]]" if line.startswith("[[") else line for line in lines))
        return file

    (found,) = load_issuers(write({**good, "ca_file": "ca.pem"}))
    assert found.ca_file == tmp_path / "ca.pem"
    for wrong in (
        {"issuer": "http://id.example"},
        {"issuer": "https://user@id.example"},
        {"clients": []},
        {"audience": ""},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"plain": ["token-link"]},
        {"plain": ["everything"]},
        {"types": ["eat+jwt"]},
        {"tenants": []},
        {"surprise": 1},
    ):
        with pytest.raises(ConfigError):
            load_issuers(write({**good, **wrong}))
    for text in (write(good, good).read_text(), "", "issuer = 3", "[["):
        file.write_text(text)
        with pytest.raises(ConfigError):
            load_issuers(file)
    with pytest.raises(ConfigError):
        load_issuers(tmp_path / "nothing")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: {"token_file": folder / "none"},
        lambda folder: {"token_file": private_file(folder / "words", "not a token")},
        lambda folder: {"token_command": "false"},
        lambda folder: {"token_command": "echo canary-9c1 words"},
        lambda folder: {"token_command": "'"},
        lambda folder: {"token_command": "/there/is/no/such/program"},
        lambda folder: {"token_command": "true", "token_file": folder / "x"},
    ],
)
def test_what_gives_no_token_is_refused_without_showing_it(make: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    def ask() -> None:
        source = token_source(Settings(home=tmp_path, **make(tmp_path)))
        assert source is not None
        source()

    with pytest.raises(CredentialError) as caught:
        ask()
    assert "canary" not in f"{caught.value} {caught.value.facts}"


def test_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = private_file(tmp_path / "token", "a.b.c")
    source = token_source(Settings(home=tmp_path, token_file=file))
    assert source is not None
    assert source() == "a.b.c"
    file.chmod(0o644)
    with pytest.raises(CredentialError):
        source()
