"""Inputs and outputs of a job in remote storages: where they are, and whose credential is used there.

A credential is a resource of a key broker service (``docs/decisions/0026-storage-credentials.md``): the node attests to that service by its
own evidence, and its agent keeps what it gets.  It is in no file, environment, argument, log or receipt, and the program does not get it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from confide.crypto.tls import PinnedSpki
from confide.data.places import is_url, remote_folder
from confide.data.s3 import S3Access
from confide.errors import JobError
from confide.ids import SpkiDigest
from confide.keys.kbs.client import KbsClient
from confide.keys.kbs.dataset_key import resource_of_key
from confide.keys.kbs.transport import PinnedCa

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.data.places import Place
    from confide.job import InputSpec, KbsSource, OutputSpec
    from confide.keys.kbs.transport import KbsTrust


def place_of(spec: InputSpec | OutputSpec, attester: Attester | None) -> Place:
    """Where an input or an output lies, for a node with this attester.

    Raises:
        JobError: it needs a credential, and nobody here can attest to get it.
        AttestationError, ResourceDeniedError, ResourceMissingError: the service refuses this node, or has no such resource.
        CredentialError: the resource is no credential.
        KbsError, UnavailableError: the service, or the storage, cannot be used.
    """
    if not is_url(spec.path):
        return Path(spec.path)
    if spec.credentials is None:
        return remote_folder(spec.path)
    if attester is None:
        raise JobError("a storage's credential is given to attested nodes only")
    return remote_folder(spec.path, _access(spec.credentials, attester))


def _access(source: KbsSource, attester: Attester) -> S3Access:
    url, name = resource_of_key(source.resource)
    with KbsClient(url, trust_of(source), attester=attester) as client:
        resource = client.resource(name)
    try:
        return S3Access.parse(bytes(resource.reveal()))
    finally:
        resource.wipe()


def trust_of(source: KbsSource) -> KbsTrust:
    """By what a job knows a key broker service."""
    return PinnedSpki(SpkiDigest(source.spki)) if source.spki else PinnedCa(source.ca)
