"""The custody of a broker as its operator writes it: a TOML file with one ``[custody]`` table.

Unknown keys, missing ones and wrong types are errors.  No value is a credential: those are in files of mode 0600 that are named here.
Paths are relative to the file.  What a kind needs is imported when it is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from confide.canonical import parse_toml
from confide.errors import ConfigError, ParseError
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.protocol import KeyService
from confide.keys.custody.root import Custody
from confide.keys.custody.seal_state import Patience


def _beside(value: object, info: ValidationInfo) -> object:
    return (info.context or Path()) / value if isinstance(value, str) and value else value


def _https(value: str) -> str:
    if not value.startswith("https://") or value.endswith("/") or any(sign in value[8:] for sign in "@?#"):
        raise ValueError("must be https://HOST[:PORT] without a slash at its end")
    return value


_File = Annotated[Path, BeforeValidator(_beside)]
_Text = Annotated[str, Field(min_length=1, max_length=2048)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127})*$")]
"""Names that become part of a URL's path."""
_Resource = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}){2}$")]
"""``repository/type/tag``."""
_Address = Annotated[str, AfterValidator(_https)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Service(_Table):
    """What every custody that is asked again and again has: see :class:`Patience`."""

    kind: str
    check_every_s: float = Field(default=300, ge=1, le=86400)
    grace_s: float = Field(default=3600, ge=0, le=7 * 86400)

    def service(self) -> KeyService:
        """The service, not yet asked for anything."""
        raise NotImplementedError

    def unlock(self, service: KeyService | None = None) -> Custody:
        """The way to open a store, by ``service`` or the one that is named here."""
        return Custody(EnvelopeKms(service or self.service()), self.kind, Patience(self.check_every_s, self.grace_s))


class Pkcs11(_Service):
    """A PKCS#11 token (``pkcs11``)."""

    kind: Literal["pkcs11"]
    module: _File
    token: _Text
    key: _Text
    key_id: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,255}$")] | None = None
    pin_file: _File

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.pkcs11 import Pkcs11Key  # noqa: PLC0415  an extra

        return Pkcs11Key(self.module, self.token, self.key, self.pin_file, self.key_id)


class Vault(_Service):
    """The transit engine of Vault or OpenBao (``vault``)."""

    kind: Literal["vault"]
    address: _Address
    key: _Word
    mount: _Word = "transit"
    namespace: _Word | None = None
    token_file: _File
    ca_file: _File | None = None

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.vault import VaultTransit  # noqa: PLC0415  needed by this kind only

        return VaultTransit(self.address, self.key, self.token_file, mount=self.mount, namespace=self.namespace, ca=self.ca_file)


class Aws(_Service):
    """AWS KMS (``aws``)."""

    kind: Literal["aws"]
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    key: _Text
    credentials_file: _File
    endpoint: _Address | None = None
    ca_file: _File | None = None

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.aws import AwsKey  # noqa: PLC0415  an extra

        return AwsKey(self.region, self.key, self.credentials_file, endpoint=self.endpoint, ca=self.ca_file)


class Gcp(_Service):
    """Google Cloud KMS (``gcp``)."""

    kind: Literal["gcp"]
    key: Annotated[str, Field(pattern=r"^projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$")]
    credentials_file: _File
    endpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")] | None = None
    ca_file: _File | None = None

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.gcp import GcpKey  # noqa: PLC0415  an extra

        return GcpKey(self.key, self.credentials_file, endpoint=self.endpoint, ca=self.ca_file)


class Azure(_Service):
    """Azure Key Vault or a Managed HSM (``azure``)."""

    kind: Literal["azure"]
    vault: _Address
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,127}$")]
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9-][A-Za-z0-9.-]{0,127}$")]
    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,127}$")]
    secret_file: _File
    authority: _Address = "https://login.microsoftonline.com"
    ca_file: _File | None = None

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.azure import AzureKey  # noqa: PLC0415  an extra

        return AzureKey(self.vault, self.key, self.tenant, self.client, self.secret_file, self.authority, self.ca_file)


class Kmip(_Service):
    """A KMIP server (``kmip``)."""

    kind: Literal["kmip"]
    host: _Text
    port: int = Field(default=5696, ge=1, le=65535)
    key: _Text
    older_keys: list[_Text] = Field(default_factory=list)
    ca_file: _File
    certificate_file: _File
    private_key_file: _File

    def service(self) -> KeyService:
        """See :class:`_Service`."""
        from confide.keys.custody.kmip import KmipKey  # noqa: PLC0415  needed by this kind only

        files = self.ca_file, self.certificate_file, self.private_key_file
        return KmipKey(self.host, self.port, self.key, *files, older_keys=tuple(self.older_keys))


class Upstream(_Service):
    """A resource at an upstream key broker service (``kbs``), for ``keys.kbs.upstream``, which the caller makes: it needs an attester.

    ``simulated`` is the folder of an installation's simulated TEE, which this broker shows evidence of: it protects nothing, and an
    upstream takes it only if its policy says so.
    """

    kind: Literal["kbs"]
    address: _Address
    key: _Resource
    older_keys: list[_Resource] = Field(default_factory=list, max_length=16)
    ca_file: _File | None = None
    spki: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    simulated: _File | None = None

    @model_validator(mode="after")
    def _one_trust(self) -> Self:
        if (self.ca_file is None) == (self.spki is None):
            raise ValueError("the upstream is known by one of ca_file and spki")
        return self


AnyCustody = Pkcs11 | Vault | Aws | Gcp | Azure | Kmip | Upstream
CustodySettings = Annotated[AnyCustody, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyCustody] = TypeAdapter(CustodySettings)


def load(path: Path) -> AnyCustody:
    """Read a custody file.

    Raises:
        ConfigError: it cannot be read, is no TOML, or is not exactly one table that fits.
    """
    try:
        table = parse_toml(path.read_text(encoding="utf-8"))
    except (ParseError, OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"cannot read {path}: {cause}", path=str(path)) from cause
    if set(table) != {"custody"} or not isinstance(table["custody"], dict):
        raise ConfigError(f"{path}: there must be one table, [custody]", path=str(path))
    try:
        return _ADAPTER.validate_python(table["custody"], context=path.absolute().parent)
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "kind"
        raise ConfigError(f"{path}: {place}: {first['msg']}", path=str(path), setting=place) from None
