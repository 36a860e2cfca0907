"""The custody file: each kind reads as written, and anything that does not fit exactly is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.errors import AttesterError, ConfigError
from confide.keys.custody.aws import AwsKey
from confide.keys.custody.azure import AzureKey
from confide.keys.custody.gcp import GcpKey
from confide.keys.custody.kmip import KmipKey
from confide.keys.custody.pkcs11 import Pkcs11Key
from confide.keys.custody.seal_state import Patience
from confide.keys.custody.settings import load
from confide.keys.custody.vault import VaultTransit

VAULT = '[custody]\nkind = "vault"\naddress = "https://vault.example:8200"\nkey = "confide"\ntoken_file = "token"\n'
AWS = '[custody]\nkind = "aws"\nregion = "eu-central-1"\nkey = "alias/confide"\ncredentials_file = "/etc/confide/aws"\n'
GCP = '[custody]\nkind = "gcp"\nkey = "projects/p/locations/eu/keyRings/r/cryptoKeys/k"\ncredentials_file = "account.json"\n'
AZURE = ('[custody]\nkind = "azure"\nvault = "https://v.vault.azure.net"\nkey = "k"\ntenant = "t.example"\nclient = "c"\n'
         'secret_file = "secret"\n')  # fmt: skip
PKCS11 = '[custody]\nkind = "pkcs11"\nmodule = "/usr/lib/x.so"\ntoken = "t"\nkey = "k"\nkey_id = "0aff"\npin_file = "pin"\n'
KMIP = ('[custody]\nkind = "kmip"\nhost = "kms.example"\nkey = "9"\nolder_keys = ["8"]\nca_file = "ca.pem"\ncertificate_file = "c.pem"\n'
        'private_key_file = "c.key"\n')  # fmt: skip

UPSTREAM = f'[custody]\nkind = "kbs"\naddress = "https://kbs.example"\nkey = "broker/key/root"\nspki = "{"ab" * 32}"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "custody.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_kind_reads_as_written_with_paths_beside_the_file(tmp_path: Path) -> None:
    here = tmp_path
    expected = [
        (VAULT, VaultTransit("https://vault.example:8200", "confide", here / "token")),
        (AWS, AwsKey("eu-central-1", "alias/confide", Path("/etc/confide/aws"))),
        (PKCS11, Pkcs11Key(Path("/usr/lib/x.so"), "t", "k", here / "pin", "0aff")),
        (GCP, GcpKey("projects/p/locations/eu/keyRings/r/cryptoKeys/k", here / "account.json")),
        (AZURE, AzureKey("https://v.vault.azure.net", "k", "t.example", "c", here / "secret")),
        (KMIP, KmipKey("kms.example", 5696, "9", here / "ca.pem", here / "c.pem", here / "c.key", ("8",))),
    ]
    for text, service in expected:
        found = load(written(tmp_path, text)).service()
        shown = {name: value for name, value in vars(found).items() if not name.startswith("_")}
        assert shown == {name: value for name, value in vars(service).items() if not name.startswith("_")}


def test_patience_has_defaults_and_can_be_none(tmp_path: Path) -> None:
    assert load(written(tmp_path, VAULT)).unlock().patience == Patience(300, 3600)
    assert load(written(tmp_path, VAULT + "grace_s = 0\ncheck_every_s = 10\n")).unlock().patience == Patience(10, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml",
        "custody = 5",
        VAULT + "[other]\n",
        '[custody]\nkind = "abacus"\n',
        "[custody]\n",
        VAULT + 'token = "hvs.secret"\n',
        VAULT + "verify = false\n",
        VAULT.replace("https://", "http://"),
        VAULT.replace("https://", "https://user:word@"),
        VAULT.replace(":8200", ":8200/"),
        VAULT.replace(":8200", ":8200?x"),
        VAULT.replace('"confide"', '"../sys/seal"'),
        VAULT.replace('"confide"', '"a b"'),
        VAULT.replace('token_file = "token"\n', ""),
        VAULT + "grace_s = -1\n",
        VAULT + 'grace_s = "0"\n',
        VAULT + "check_every_s = 0\n",
        VAULT + "grace_s = inf\n",
        VAULT + "grace_s = nan\n",
        AWS + 'endpoint = "http://127.0.0.1:1"\n',
        AWS.replace("eu-central-1", "eu/../x"),
        AWS + 'secret_access_key = "x"\n',
        GCP.replace("cryptoKeys/k", "cryptoKeys/k/../x"),
        GCP + 'endpoint = "http://x"\n',
        AZURE.replace("https://v", "http://v"),
        AZURE + 'secret = "x"\n',
        AZURE.replace('"k"', '"k/../x"'),
        PKCS11 + 'pin = "1234"\n',
        PKCS11.replace("0aff", "xyz"),
        UPSTREAM + 'ca_file = "ca.pem"\n',
        UPSTREAM.replace("spki", "x"),
        UPSTREAM.replace("abab", "ABAB"),
        UPSTREAM.replace("https", "http"),
        UPSTREAM.replace("broker/key/root", "broker/root"),
        UPSTREAM.replace("broker/key", "../key"),
        UPSTREAM + 'older_keys = ["broker/key"]\n',
        UPSTREAM + "simulated = true\n",
        KMIP + "port = 0\n",
        KMIP + 'port = "5696"\n',
    ],
)
def test_a_custody_file_that_does_not_fit_exactly_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, text))
    assert "hvs.secret" not in str(refused.value.to_json())


def test_a_custody_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("key", ["..", "a/..", "./a", ".", "a/./b"])
def test_a_name_does_not_lead_out_of_its_place_in_the_url(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError):
        load(written(tmp_path, VAULT.replace('"confide"', f'"{key}"')))


def test_an_upstream_is_made_with_evidence_of_the_tee_unless_the_file_names_a_simulated_one(tmp_path: Path) -> None:
    from confide.cli.opening import Opening, unlock_of
    from confide.keys.custody.root import Custody
    from confide.keys.kbs.upstream import UpstreamKey
    from confide.keys.storage.locations import SqliteFile

    def made(text: str) -> UpstreamKey:
        unlock = unlock_of(SqliteFile(tmp_path / "x.db"), Opening(None, None, written(tmp_path, text), shares=False))
        assert isinstance(unlock, Custody)
        service = unlock.kms._service  # type: ignore[attr-defined]
        assert isinstance(service, UpstreamKey)
        return service

    found = made(UPSTREAM + 'older_keys = ["broker/key/older"]\n')
    assert (found.address, found.key.path, found.spki, found.ca) == ("https://kbs.example", "broker/key/root", "ab" * 32, None)
    assert [one.path for one in found.older] == ["broker/key/older"]
    with pytest.raises(AttesterError):
        found.attester()
    simulated = made(UPSTREAM.replace(f'spki = "{"ab" * 32}"', 'ca_file = "ca.pem"') + 'simulated = "tee"\n')
    assert simulated.ca == tmp_path / "ca.pem"
    assert simulated.attester().simulated
