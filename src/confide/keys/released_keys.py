"""Keys of datasets as the broker's clients hold them, with what the broker said of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from confide.attest.policy import Policy
from confide.crypto.envelope import WrappedKey
from confide.crypto.secret import SecretBytes
from confide.ids import DatasetId, KeyRef, SpkiDigest
from confide.keys.connection import Answer
from confide.keys.grants import GrantRef


@dataclass(frozen=True, slots=True)
class ReleasedKey:
    """A dataset key that the broker released.  Must not be used after ``expires``.

    ``grants`` are the broker's word on who let it be released, by root key: each owner's grant and the digest of its policy.  ``policies``
    are those policies: every node that gets to see the data has to meet them, not only the one that got the key.
    """

    dataset: DatasetId
    key: KeyRef
    secret: SecretBytes = field(repr=False)
    expires: datetime
    grants: Mapping[str, GrantRef]
    policies: tuple[Policy, ...] = ()
    groups: Mapping[str, ReleasedKey] = field(default_factory=dict)

    def wipe(self) -> None:
        """Overwrite the key, and those of its column groups."""
        for key in (self, *self.groups.values()):
            key.secret.wipe()


@dataclass(frozen=True, slots=True)
class OutputKey:
    """The key of an output dataset of this run, and what its manifest has to carry."""

    dataset: DatasetId
    key: KeyRef
    secret: SecretBytes = field(repr=False)
    expires: datetime
    wrapped: WrappedKey
    signer: SpkiDigest
    recipients: tuple[str, ...]
    inherits: tuple[str, ...]
    grants: Mapping[str, GrantRef]
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class MintedDataset:
    """A new dataset's key, for its owner, and the wrapped form for its manifest."""

    dataset: DatasetId
    key: KeyRef
    secret: SecretBytes = field(repr=False)
    wrapped: WrappedKey


def released(answer: Answer, dataset: DatasetId, secret: SecretBytes) -> ReleasedKey:
    """What an answer says of a key, which must be that of ``dataset``.

    Raises:
        BrokerError: it is another dataset's, or the answer lacks something.
    """
    return ReleasedKey(
        dataset=answer.dataset_named(dataset),
        key=answer.key_ref(),
        secret=secret,
        expires=answer.time("expires"),
        grants=answer.grants(),
        policies=answer.policies(),
    )
