"""Which work made a snapshot: a keyed digest in its manifest, so that the same work is not done twice.

A command may be killed in the very moment in which it is done, and leave nothing but the snapshot.  Whoever runs it again asks here.
The digest says something only to who has the dataset's key, and has that work at hand: ``docs/formats/dataset.md``, section 3.1.
"""

from __future__ import annotations

import hashlib
import hmac

from confide.crypto.derive import work_key
from confide.crypto.secret import SecretBytes
from confide.data.manifest import verify_manifest
from confide.data.snapshots import SignedManifest, history
from confide.ids import DatasetId


def work_of(task: str, dataset_key: SecretBytes, dataset: DatasetId) -> str:
    """What a snapshot's manifest says of the ``task`` that made it (:func:`confide.data.staging.task_of`)."""
    return hmac.digest(work_key(dataset_key, dataset).reveal(), task.encode("ascii"), hashlib.sha256).hex()


def snapshot_made_by(task: str | None, newest: SignedManifest, dataset_key: SecretBytes) -> SignedManifest | None:
    """The last of the snapshots that are kept which this task made; ``None`` if none was.

    Each is vouched for by ``newest``, which has to be signed by the key that it names.  Who may sign is not checked here: whoever got the
    dataset's key by it has checked that, or the broker did.

    Raises:
        ManifestError: ``newest`` is not signed by the key that it names, or the snapshots do not follow one another.
    """
    if task is None:
        return None
    verify_manifest(newest.envelope, newest.signer)
    wanted = work_of(task, dataset_key, newest.unverified.dataset)
    return next((one for one in (newest, *history(newest)) if one.unverified.work == wanted), None)
