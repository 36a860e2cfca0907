"""What is particular to one kind of custody: what it is told, what it is asked to refuse, and where credentials come from."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.custody import backends
from support.custody.aws import CREDENTIALS, REGION, AwsServer
from support.custody.azure import CLIENT, OAEP, TENANT, AzureServer
from support.custody.gcp import PARENT, GcpServer, account_file
from support.custody.kmip import KmipServer
from support.custody.mischief import MischiefServer
from support.custody.softhsm import MODULE, TOKEN, SoftHsm
from support.custody.tls import Tls, private_file
from support.custody.transit import NAMESPACE, TransitServer
from support.raw_server import RawServer

from confide.crypto.secret import SecretBytes
from confide.errors import ConfigError, CredentialError, CustodyError, CustodyOfflineError, ExtraMissingError, UnwrapError
from confide.keys.custody.aws import AwsKey
from confide.keys.custody.azure import AzureKey
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.gcp import GcpKey
from confide.keys.custody.kmip import KmipKey
from confide.keys.custody.pkcs11 import Pkcs11Key
from confide.keys.custody.vault import VaultTransit

KEY, BINDING, OTHER = SecretBytes(b"k" * 32), b"b" * 32, b"c" * 32


def _azure(server: AzureServer, name: str, file: Path) -> AzureKey:
    return AzureKey(server.address, name, TENANT, CLIENT, file, server.address, server.tls.ca)


@pytest.fixture(params=["pkcs11", "vault", "gcp", "azure", "aws", "kmip"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A service without the envelope, and the field that names its credential."""
    ask = request.getfixturevalue
    if request.param == "vault":
        transit: TransitServer = ask("transit")
        transit.rotate("bare")
        token = private_file(tmp_path / "token", backends.TOKEN_TEXT)
        return SimpleNamespace(service=VaultTransit(transit.address, "bare", token, namespace=NAMESPACE, ca=ask("tls").ca), file=token)
    if request.param == "gcp":
        cloud: GcpServer = ask("cloud_kms")
        cloud.rotate("bare")
        file = account_file(tmp_path / "account.json", ask("tls").client_key)
        return SimpleNamespace(service=GcpKey(f"{PARENT}/bare", file, f"127.0.0.1:{cloud.port}", ask("tls").ca), file=file)
    if request.param == "azure":
        key_vault: AzureServer = ask("key_vault")
        key_vault.rotate("bare")
        file = private_file(tmp_path / "secret", backends.AZURE_SECRET)
        return SimpleNamespace(service=_azure(key_vault, "bare", file), file=file)
    if request.param == "aws":
        moto: AwsServer = ask("moto")
        file = private_file(tmp_path / "credentials", CREDENTIALS)
        name = moto.admin().create_key()["KeyMetadata"]["KeyId"]
        return SimpleNamespace(service=AwsKey(REGION, name, file, endpoint=moto.endpoint, ca=moto.tls.ca), file=file)
    if request.param == "kmip":
        server: KmipServer = ask("pykmip")
        tls = server.tls
        file = private_file(tmp_path / "key", tls.client_key.read_text())
        return SimpleNamespace(service=KmipKey("127.0.0.1", server.port, server.create_key(), tls.ca, tls.client, file), file=file)
    hsm: SoftHsm = ask("hsm")
    label = tmp_path.name
    hsm.create_key(label, b"\x01")
    pin = private_file(tmp_path / "pin", backends.PIN)
    return SimpleNamespace(service=Pkcs11Key(MODULE, TOKEN, label, pin), file=pin)


def test_every_service_binds_associated_data_of_its_own(bare: Any) -> None:
    """The envelope binds the context whatever the service does; these do so too."""
    wrapped = bare.service.wrap_key(KEY, BINDING)
    assert bare.service.unwrap_key(wrapped, BINDING).reveal() == KEY.reveal()
    with pytest.raises(UnwrapError):
        bare.service.unwrap_key(wrapped, OTHER)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_credential_that_others_can_read_is_not_used(bare: Any, mode: int) -> None:
    bare.file.chmod(mode)
    with pytest.raises(CredentialError, match="open to other users"):
        bare.service.wrap_key(KEY, BINDING)


def test_a_credential_that_is_empty_or_not_there_is_refused(bare: Any) -> None:
    bare.file.write_text("\n")
    with pytest.raises((CredentialError, ConfigError)):
        bare.service.wrap_key(KEY, BINDING)
    bare.file.unlink()
    with pytest.raises(CredentialError):
        bare.service.wrap_key(KEY, BINDING)


def test_what_is_sent_to_a_service_is_in_no_log(bare: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    google = logging.getLogger("google")  # hides its records from the root's handlers, but not from its own
    google.addHandler(caplog.handler)
    bare.service.unwrap_key(bare.service.wrap_key(KEY, BINDING), BINDING)
    google.removeHandler(caplog.handler)
    ours = [record for record in caplog.records if not record.name.startswith(("moto", "kmip"))]
    said = caplog.text + "\n".join(repr(vars(record)) for record in ours)
    for form in (base64.b64encode(KEY.reveal()).decode(), "k" * 32):
        assert form not in said


def test_the_service_never_sees_the_secret(transit: TransitServer, tls: Tls, tmp_path: Path) -> None:
    secret = b"the secret that a store is under"
    token = private_file(tmp_path / "token", backends.TOKEN_TEXT)
    transit.rotate("seen")
    kms = EnvelopeKms(VaultTransit(transit.address, "seen", token, namespace=NAMESPACE, ca=tls.ca))
    transit.seen.clear()
    kms.unwrap(kms.wrap(SecretBytes(secret), context={"use": "x"}), context={"use": "x"})
    assert len(transit.seen) == 2
    assert base64.b64encode(secret).decode() not in str(transit.seen)
    assert all(asked["associated_data"] for asked in transit.seen)


def test_a_service_without_associated_data_is_bound_by_the_envelope() -> None:
    class Plain:
        """The worst service that there is: it encrypts nothing and binds nothing."""

        def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
            return key.reveal()

        def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
            return SecretBytes(wrapped)

    kms = EnvelopeKms(Plain())
    wrapped = kms.wrap(KEY, context={"use": "a"})
    assert kms.unwrap(wrapped, context={"use": "a"}).reveal() == KEY.reveal()
    with pytest.raises(UnwrapError):
        kms.unwrap(wrapped, context={"use": "b"})
    for place in range(len(wrapped)):
        with pytest.raises(UnwrapError):
            kms.unwrap(wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :], context={"use": "a"})


def test_no_byte_of_what_a_service_returned_can_be_changed() -> None:
    class Loose:
        """A service whose ciphertext has bytes that it does not look at, as some have."""

        def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
            return key.reveal() + b"loose"

        def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
            return SecretBytes(wrapped[:32])

    kms = EnvelopeKms(Loose())
    wrapped = kms.wrap(KEY, context={"use": "a"})
    with pytest.raises(UnwrapError):
        kms.unwrap(wrapped.replace(b"loose", b"loosf"), context={"use": "a"})


# --- PKCS#11 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{"EXTRACTABLE": True}, {"SENSITIVE": False}], ids=str)
def test_a_token_that_would_give_the_key_out_is_no_custody(hsm: SoftHsm, tmp_path: Path, attributes: dict[str, bool]) -> None:
    label = f"loose {attributes}"
    hsm.create_key(label, b"\x01", **attributes)
    with pytest.raises(CustodyError, match="would give this key out"):
        Pkcs11Key(MODULE, TOKEN, label, private_file(tmp_path / "pin", backends.PIN)).wrap_key(KEY, BINDING)


def test_two_keys_of_one_label_must_be_told_apart(hsm: SoftHsm, tmp_path: Path) -> None:
    for name in (b"\x01", b"\x02"):
        hsm.create_key("twice", name)
    pin = private_file(tmp_path / "pin", backends.PIN)
    with pytest.raises(CustodyError, match="exactly one"):
        Pkcs11Key(MODULE, TOKEN, "twice", pin).wrap_key(KEY, BINDING)
    assert Pkcs11Key(MODULE, TOKEN, "twice", pin, key_id="02").wrap_key(KEY, BINDING)[1] == 2


def test_a_token_or_library_that_is_not_there_is_offline(hsm: SoftHsm, tmp_path: Path) -> None:
    pin = private_file(tmp_path / "pin", backends.PIN)
    for module, token in ((MODULE, "another"), (tmp_path / "none.so", TOKEN)):
        with pytest.raises(CustodyOfflineError):
            Pkcs11Key(module, token, "one", pin).wrap_key(KEY, BINDING)


# --- AWS ---------------------------------------------------------------------------------------------------------


def test_nothing_of_aws_is_taken_from_the_environment(moto: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = moto.admin().create_key()["KeyMetadata"]["KeyId"]
    elsewhere = "https://127.0.0.1:1"
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, elsewhere)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.setenv(name, "from-the-environment")
    file = private_file(tmp_path / "credentials", CREDENTIALS)
    service = AwsKey(REGION, key, file, endpoint=moto.endpoint, ca=moto.tls.ca)
    assert service.unwrap_key(service.wrap_key(KEY, BINDING), BINDING).reveal() == KEY.reveal()
    client = service._client()
    assert client._request_signer._credentials.access_key == "AKIAIOSFODNN7EXAMPLE"
    public = AwsKey(REGION, key, file)._client()
    assert public.meta.endpoint_url == f"https://kms.{REGION}.amazonaws.com"
    assert str(public._endpoint.http_session._verify).endswith("cacert.pem")


@pytest.mark.parametrize("text", ["x", "[other]\naws_access_key_id = a\naws_secret_access_key = b\n", "[default]\naws_access_key_id = a\n"])
def test_a_file_without_aws_credentials_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialError, match="no AWS credentials"):
        AwsKey(REGION, "k", private_file(tmp_path / "credentials", text)).wrap_key(KEY, BINDING)


@pytest.mark.parametrize("text", ["x", "[]", "{}", '{"type": "service_account", "private_key": "x"}', '"text"'])
def test_a_file_without_google_credentials_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialError, match="no Google credentials"):
        GcpKey("k", private_file(tmp_path / "credentials", text)).wrap_key(KEY, BINDING)


def test_nothing_of_google_is_taken_from_the_environment(
    cloud_kms: GcpServer, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "GOOGLE_CLOUD_UNIVERSE_DOMAIN"):
        monkeypatch.setenv(name, "https://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    cloud_kms.rotate("environment")
    file = account_file(tmp_path / "account.json", tls.client_key)
    service = GcpKey(f"{PARENT}/environment", file, f"127.0.0.1:{cloud_kms.port}", tls.ca)
    assert service.unwrap_key(service.wrap_key(KEY, BINDING), BINDING).reveal() == KEY.reveal()
    public = GcpKey(f"{PARENT}/environment", file)._client()
    assert public.transport._host == "https://cloudkms.googleapis.com"
    assert public.transport._session.verify is True
    assert not public.transport._session.trust_env


# --- Azure -------------------------------------------------------------------------------------------------------


def test_a_key_that_anybody_wrapped_with_the_vaults_public_key_is_refused(key_vault: AzureServer, tmp_path: Path) -> None:
    """Else who can write the store could put in a root key of their own."""
    key_vault.rotate("forged")
    service = _azure(key_vault, "forged", private_file(tmp_path / "secret", backends.AZURE_SECRET))
    wrapped = service.wrap_key(KEY, BINDING)
    ((version, key),) = key_vault.keys["forged"].items()
    sealed = key.public_key().encrypt(b"f" * 32, OAEP)
    head = version.encode() + len(sealed).to_bytes(2, "big") + sealed
    for forged in (head + wrapped[-256:], head + bytes(256), head + b"x", head):
        with pytest.raises(UnwrapError):
            service.unwrap_key(forged, BINDING)
    assert service.unwrap_key(wrapped, BINDING).reveal() == KEY.reveal()


def test_nothing_of_azure_is_taken_from_the_environment(key_vault: AzureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "AZURE_AUTHORITY_HOST"):
        monkeypatch.setenv(name, "https://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    key_vault.rotate("environment")
    service = _azure(key_vault, "environment", private_file(tmp_path / "secret", backends.AZURE_SECRET))
    assert service.unwrap_key(service.wrap_key(KEY, BINDING), BINDING).reveal() == KEY.reveal()


# --- what is not installed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "make"), [
    ("botocore.session", lambda folder: AwsKey(REGION, "k", private_file(folder / "c", CREDENTIALS))),
    ("google.cloud.kms_v1", lambda folder: GcpKey("k", private_file(folder / "c", "{}"))),
    ("azure.core.exceptions", lambda folder: AzureKey("https://x", "k", TENANT, CLIENT, private_file(folder / "c", "x"))),
    ("pkcs11", lambda folder: Pkcs11Key(MODULE, TOKEN, "k", private_file(folder / "pin", "1"))),
])  # fmt: skip
def test_a_missing_extra_says_which(module: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ExtraMissingError) as missing:
        make(tmp_path).wrap_key(KEY, BINDING)
    assert "confide[" in str(missing.value.hint)


# --- Vault -------------------------------------------------------------------------------------------------------


ANSWER = b'{"data":{"ciphertext":"vault:v1:AAAA"}}'


@pytest.mark.parametrize(("body", "pause_s", "parts"), [
    (ANSWER + b" " * 1000, 0.25, 20),
    (ANSWER + b" " * 200_000, 0, 1),
], ids=["drop by drop", "without end"])  # fmt: skip
def test_even_a_right_answer_comes_in_time_and_is_no_longer_than_it_may_be(
    tls: Tls, tmp_path: Path, body: bytes, pause_s: float, parts: int
) -> None:
    token = private_file(tmp_path / "token", backends.TOKEN_TEXT)

    def ask(server: MischiefServer, timeout_s: float) -> bytes:
        try:
            return VaultTransit(f"https://127.0.0.1:{server.port}", "k", token, ca=tls.ca, timeout_s=timeout_s).wrap_key(KEY, BINDING)
        finally:
            server.stop()

    assert ask(MischiefServer(tls, backends.http(200, ANSWER)), 5) == b"vault:v1:AAAA"
    with pytest.raises(CustodyOfflineError):
        ask(MischiefServer(tls, backends.http(200, body), pause_s=pause_s, parts=parts), 1)


@pytest.mark.parametrize("says", [
    [b"HTTP/1.1 200 OK\r\nContent-Length: 129\r\n\r\n" + ANSWER, *[b" "] * 90],
    [b"HTTP/1.1 200 OK\r\n", *[b"X: x\r\n"] * 90, b"Content-Length: 39\r\n\r\n" + ANSWER],
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n27\r\n" + ANSWER + b"\r\n0\r\n", *[b"X: x\r\n"] * 90, b"\r\n"],
], ids=["body", "head", "fields after the last chunk"])  # fmt: skip
def test_an_answer_that_drips_is_not_heard_to_its_end(tls: Tls, tmp_path: Path, says: list[bytes]) -> None:
    """Each byte comes in time, and all of them after nine seconds."""
    token = private_file(tmp_path / "token", backends.TOKEN_TEXT)
    server = RawServer(says, pause_s=0.1, tls=tls.for_server())
    address = server.url.replace("localhost", "127.0.0.1")
    try:
        with pytest.raises(CustodyOfflineError, match="cannot be reached"):
            VaultTransit(address, "k", token, ca=tls.ca, timeout_s=1).wrap_key(KEY, BINDING)
        assert server.cut.wait(5)
    finally:
        server.close()


def test_a_token_that_is_none_is_not_quoted(transit: TransitServer, tls: Tls, tmp_path: Path) -> None:
    for text in ("hvs.one\nhvs.two", "hvs.\u00e9", "hvs.\tx"):
        service = VaultTransit(transit.address, "one", private_file(tmp_path / "token", text), ca=tls.ca)
        with pytest.raises(CredentialError) as refused:
            service.wrap_key(KEY, BINDING)
        assert "hvs" not in str(refused.value.to_json())


@pytest.mark.parametrize("bare", ["vault", "kmip"], indirect=True)
def test_keys_of_connections_are_not_written_where_the_environment_says(bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    service = replace(bare.service)
    assert service.unwrap_key(service.wrap_key(KEY, BINDING), BINDING).reveal() == KEY.reveal()
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize("bare", ["aws", "gcp", "azure"], indirect=True)
def test_libraries_that_would_write_keys_of_connections_are_not_used(bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    with pytest.raises(ConfigError, match="SSLKEYLOGFILE"):
        bare.service.wrap_key(KEY, BINDING)
    assert not (tmp_path / "keys.log").exists()


# --- Vault and KMIP ----------------------------------------------------------------------------------------------


def test_certificates_that_cannot_be_read_are_a_wrong_setting(tmp_path: Path, pykmip: KmipServer) -> None:
    with pytest.raises(ConfigError):
        VaultTransit("https://127.0.0.1:1", "k", tmp_path / "token", ca=tmp_path / "none.pem")
    tls = pykmip.tls
    with pytest.raises(ConfigError):
        KmipKey("127.0.0.1", pykmip.port, "1", tmp_path / "none.pem", tls.client, tls.client_key).wrap_key(KEY, BINDING)


def test_a_kmip_key_that_is_not_named_in_the_settings_opens_nothing(pykmip: KmipServer) -> None:
    tls = pykmip.tls

    def at(name: str, *older: str) -> KmipKey:
        return KmipKey("127.0.0.1", pykmip.port, name, tls.ca, tls.client, tls.client_key, older)

    one, two = pykmip.create_key(), pykmip.create_key()
    wrapped = at(one).wrap_key(KEY, BINDING)
    with pytest.raises(UnwrapError):
        at(two).unwrap_key(wrapped, BINDING)
    assert at(two, one).unwrap_key(wrapped, BINDING).reveal() == KEY.reveal()
