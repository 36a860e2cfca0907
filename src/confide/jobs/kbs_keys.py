"""Keys of inputs that a job takes from a key broker service: the node attests to it as a guest, by its own evidence.

The service's owner decides by the evidence alone, for each node and each time the key is fetched: it knows of no job, run or lease, and
cannot withdraw what it gave.  So a key is kept for :data:`LEASE` at most, and every node of a run asks for it, the driver too, to whom
workers give what they read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from confide.errors import ManifestError
from confide.ids import DatasetId
from confide.jobs.storage import trust_of
from confide.keys.kbs.client import KbsClient
from confide.keys.kbs.dataset_key import key_of, open_dataset_key, resource_of_key
from confide.keys.released_keys import ReleasedKey

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.job import KbsSource
    from confide.jobs.inputs import VerifiedInput

LEASE: Final = timedelta(minutes=5)
"""How long a key is used before it is fetched again, with new evidence: what an owner takes back ends within this time."""


def fetch(found: VerifiedInput, source: KbsSource, attester: Attester) -> ReleasedKey:
    """The key of a verified input, from the service and resource that the job names.

    Raises:
        AttestationError: the service refuses this node's evidence.
        ResourceDeniedError, ResourceMissingError: it does not give this node the resource, or has none.
        KbsError: it does not answer as it must.
        ManifestError, UnwrapError: the resource is not a key, or the dataset is not under it.
    """
    url, name = resource_of_key(source.resource)
    manifest = found.manifest
    if manifest.owner is None:
        raise ManifestError("a run's output has its key from the broker, not from a key broker service", name=found.name)
    with KbsClient(url, trust_of(source), attester=attester) as client:
        resource = client.resource(name)
    secret = open_dataset_key(resource, found.wrapped(), owner=manifest.owner, name=name)
    resource.wipe()
    return ReleasedKey(DatasetId(manifest.dataset), key_of(manifest.owner, name), secret, datetime.now(UTC) + LEASE, grants={})
