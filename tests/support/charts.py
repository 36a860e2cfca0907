"""Charts as Helm's own library renders them."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from helm_python import chart as helm


def merged(*tables: dict[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm merges them."""
    found: dict[str, Any] = {}
    for table in copy.deepcopy(tables):
        for name, value in table.items():
            found[name] = merged(found[name], value) if isinstance(value, dict) and isinstance(found.get(name), dict) else value
    return found


def rendered(chart: helm.Chart, values: dict[str, Any], *, name: str, namespace: str) -> list[dict[str, Any]]:
    """The objects that a release would have."""
    files = chart.render(values, name=name, namespace=namespace)
    texts = [text for file, text in sorted(files.items()) if file.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def one(made: list[dict[str, Any]], *kinds: str) -> dict[str, Any]:
    """The only object of these kinds."""
    (found,) = [each for each in made if each["kind"] in kinds]
    return found
