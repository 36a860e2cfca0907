"""Objects as text, to be read, compared and given to ``kubectl apply -f -``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from confide.canonical import Json
from confide.errors import ExtraMissingError


def as_yaml(objects: Sequence[Json]) -> str:
    """Documents in this order, each object's fields in the order that they were given.

    Raises:
        ExtraMissingError: PyYAML is not installed.
    """
    try:
        import yaml  # noqa: PLC0415  an extra's
    except ImportError as cause:
        raise ExtraMissingError("PyYAML is not installed", hint="pip install 'confide[k8s]'") from cause

    apart = json.loads(json.dumps(list(objects)))  # what occurs in two places is written twice, not referred to
    return str(yaml.safe_dump_all(apart, explicit_start=True, sort_keys=False, allow_unicode=True, width=1_000_000))


def as_json(objects: Sequence[Json]) -> str:
    """One ``List`` of the objects, in this order."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}, indent=2) + "\n"
