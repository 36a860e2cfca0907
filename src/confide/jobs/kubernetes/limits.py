"""What Kubernetes would refuse, refused before anything was created, with what to do about it.  Pure."""

from __future__ import annotations

import re
from typing import Final

from confide.canonical import Json
from confide.errors import UsageError
from confide.jobs.kubernetes import names

MAX_CONFIG_MAP: Final = 1024 * 1024
"""Bytes of a config map's ``data`` (``core.MaxSecretSize`` of the API server's validation)."""
MAX_ANNOTATIONS: Final = 256 * 1024
"""Bytes of an object's annotations, keys counted in (``TotalAnnotationSizeLimitB``)."""


def check_object(found: Json) -> None:
    """Refuse an object that is not within the limits.

    Raises:
        UsageError: its name, labels, annotations, or a config map's data are not.
    """
    metadata, kind = found["metadata"], found["kind"]
    name = names.check_object_name(metadata["name"])
    for key, value in metadata["labels"].items():
        if not re.fullmatch(names.KEY, key) or not re.fullmatch(names.VALUE, value):
            hint = "a label's value has at most 63 letters, digits, dots, dashes and underscores; its first and last are letters or digits"
            raise UsageError(f"{kind} {name}: not a label: {key[:80]}={value[:80]}", hint=hint)
    hint = "use shorter annotations or less init_data"
    _check_size(f"annotations of {kind} {name}", metadata.get("annotations", {}), MAX_ANNOTATIONS, hint)
    if kind == "ConfigMap":
        hint = "use fewer workers, or fewer tolerations, labels, annotations and volumes in the profile: each worker's pod is in it"
        hint += "; and so is the job, if Spark's own tools start it" if "left.json" in found["data"] else ""
        _check_size(f"config map {name}", found["data"], MAX_CONFIG_MAP, hint)


def _check_size(what: str, texts: dict[str, str], limit: int, hint: str) -> None:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in texts.items())
    if size > limit:
        raise UsageError(f"{what}: too large for Kubernetes", hint=hint, limit=limit, got=size)
