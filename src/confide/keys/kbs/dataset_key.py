"""Datasets whose key is kept by a key broker service, instead of by Confide's broker.

The resource is 32 random bytes: a key-encryption key for one dataset or several of one owner.  In the manifest the dataset's key is wrapped
under it in the usual form (``crypto.envelope``), as version 1 of the key that :func:`key_of` names: whoever has the resource opens it, and
a resource put into another's place opens nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from confide.canonical import sha256_hex
from confide.crypto.derive import KEY_BYTES
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.secret import SecretBytes
from confide.errors import ManifestError, ParseError, UnwrapError
from confide.ids import DatasetId, KeyRef
from confide.keys.kbs.client import resource_of_uri
from confide.keys.kbs.resources import ResourceName

PREFIX: Final = "kbs-"
VERSION: Final = 1
_DIGITS: Final = 32


def resource_of_key(uri: str) -> tuple[str, ResourceName]:
    """The address of the server and the resource, of a ``kbs://HOST[:PORT]/repository/type/tag`` that names both.

    Raises:
        ParseError: not such a URI.
    """
    url, name = resource_of_uri(uri)
    if url is None:
        raise ParseError("the resource's URI names no server: kbs://HOST:PORT/repository/type/tag", got=ascii(uri[:120]))
    return url, name


def key_of(owner: str, name: ResourceName) -> KeyRef:
    """What the key is called in manifests and receipts.  The resource's name may have letters that names of keys have not: its digest."""
    return KeyRef(owner, f"{PREFIX}{sha256_hex(name.path.encode())[:_DIGITS]}", VERSION)


def wrap_dataset_key(resource: SecretBytes, dataset_key: SecretBytes, *, owner: str, name: ResourceName, dataset: DatasetId) -> WrappedKey:
    """``dataset_key`` as the manifest carries it.

    Raises:
        UnwrapError: the resource is not a key.
    """
    _check_size(resource, name)
    return wrap(resource, dataset_key, key=key_of(owner, name).id, version=VERSION, dataset=dataset)


def open_dataset_key(resource: SecretBytes, wrapped: WrappedKey, *, owner: str, name: ResourceName) -> SecretBytes:
    """The dataset's key.

    Raises:
        ManifestError: the dataset is not under this resource.
        UnwrapError: the resource is not a key, or another value than the dataset was encrypted under.
    """
    _check_size(resource, name)
    expected = key_of(owner, name)
    if (wrapped.key, wrapped.version) != (expected.id, expected.version):
        hint = "name the resource that it was encrypted with: `confide data encrypt --key-resource`"
        raise ManifestError("the dataset is under another key than that resource", hint=hint, expected=expected.id, got=wrapped.key)
    return unwrap(resource, wrapped)


def rewrap_dataset_key(
    wrapped: WrappedKey, opened: Callable[[], SecretBytes], new: SecretBytes, *, owner: str, name: ResourceName
) -> WrappedKey:
    """A dataset's key under another resource, or another value of it; ``wrapped``, its form so far, if it is under that one already.

    ``opened`` gives the dataset's key by the resource that it is under.

    Raises:
        UnwrapError: the new value is not a key.
    """
    with contextlib.suppress(ManifestError, UnwrapError):
        open_dataset_key(new, wrapped, owner=owner, name=name).wipe()
        return wrapped
    return wrap_dataset_key(new, opened(), owner=owner, name=name, dataset=DatasetId(wrapped.dataset))


def _check_size(resource: SecretBytes, name: ResourceName) -> None:
    if len(resource) != KEY_BYTES:
        hint = "a resource that is a key is exactly 32 bytes, as they are"
        raise UnwrapError("the resource is not a key", hint=hint, resource=name.path, got=len(resource))
