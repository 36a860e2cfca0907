"""What a store keeps in the clear: its format, the custody's parameters, and its own two keys, wrapped under the root key."""

from __future__ import annotations

import json
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import select

from confide.canonical import Json, b64url, parse_object
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.errors import ParseError, StoreError
from confide.keys.custody.protocol import Kms
from confide.keys.storage.database import Database, newest_revision
from confide.keys.storage.schema import META

FORMAT: Final = "confide-store-v2"


def parameters_text(parameters: Json, kms: Kms, row_key: SecretBytes, signing_key: SigningKey) -> str:
    """What a store keeps in the clear, and its own two keys under the root key."""
    wrapped = {
        "format": FORMAT,
        "master": parameters,
        "row_key": b64url(kms.wrap(row_key, context={"use": "rows"})),
        "signing_key": b64url(kms.wrap(signing_key.private_pem(), context={"use": "signing"})),
    }
    return json.dumps(wrapped)


def parameters_of(database: Database, name: str) -> Json:
    """The store's parameters.

    Raises:
        StoreError: there are none, they are damaged, or its tables are of another version.
    """
    there, newest = database.revision(), newest_revision()
    if there is None:
        hint = "it is empty, or something else lies there: move it aside, and restore a backup with `confide broker restore`"
        raise StoreError(f"{name} is not a key store", hint=hint, path=name)
    if there != newest:
        hint = "`confide broker upgrade` changes those of an older one"
        raise StoreError(f"the key store at {name} has the tables of another version", hint=hint, path=name)
    rows = database.rows(select(META.c.value).where(META.c.name == "store"))
    try:
        return parse_object(rows[0][0]) if rows else {}
    except ParseError as cause:
        raise StoreError(f"{name} is damaged", path=name) from cause


def signing_key_of(pem: SecretBytes) -> SigningKey:
    """The signing key, which has been unwrapped.

    Raises:
        StoreError: it is damaged.
    """
    try:
        key = load_pem_private_key(pem.reveal(), password=None)
    except ValueError:
        raise StoreError("the key store's signing key is damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StoreError("the key store's signing key is damaged")
    return SigningKey(key)
