"""Charts of the project, rendered by Helm's own library and installed in the test cluster: its API server takes every object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.asking import Asking
from helm_python import chart as helm
from support.charts import rendered

Json = dict[str, Any]
CHARTS = Path(__file__).parents[2] / "deploy" / "helm"
_OLDER = {"policy/v1": "policy/v1beta1"}
"""What the test cluster (1.20) calls by an older name; the fields that charts use are the same."""


class Release:
    """A chart with values: ``objects``, and ``notes`` for people."""

    def __init__(self, chart: str, values: Json, *, name: str, namespace: str) -> None:
        loaded = helm.Chart.load(CHARTS / chart)
        self.namespace = namespace
        self.objects = rendered(loaded, values, name=name, namespace=namespace)
        self.notes: str = loaded.render(values, name=name, namespace=namespace)[f"{chart}/templates/NOTES.txt"]

    def install(self, asking: Asking) -> list[Json]:
        """Create all objects; as they were made.

        A server of this age drops what it does not know: that nothing was dropped is checked here.

        Raises:
            OSError: one is refused.
        """
        made = []
        for each in self.objects:
            api = _OLDER.get(each["apiVersion"], each["apiVersion"])
            stored = asking.post(_place(asking, api, each, self.namespace), {**each, "apiVersion": api})
            lost = [path for path in _missing(each, stored) if path != "apiVersion"]
            assert lost == [], f"{each['kind']} {each['metadata']['name']}"
            made.append(stored)
        return made


def _place(asking: Asking, api: str, found: Json, namespace: str) -> str:
    """The collection of an object's kind, as the API server itself tells it."""
    group = f"/apis/{api}" if "/" in api else f"/api/{api}"
    kinds = [each for each in asking.get(group)["resources"] if each["kind"] == found["kind"] and "/" not in each["name"]]
    within = f"/namespaces/{found['metadata'].get('namespace', namespace)}" if kinds[0]["namespaced"] else ""
    return f"{group}{within}/{kinds[0]['name']}"


def _missing(sent: Any, stored: Any, at: str = "") -> list[str]:
    """Where what is stored lacks something of what was sent, or has it otherwise."""
    if isinstance(sent, dict):
        there = stored if isinstance(stored, dict) else {}
        return [path for key, value in sent.items() for path in _missing(value, there.get(key), f"{at}.{key}".lstrip("."))]
    if isinstance(sent, list):
        there = stored if isinstance(stored, list) and len(stored) == len(sent) else [None] * len(sent)
        return [path for number, value in enumerate(sent) for path in _missing(value, there[number], f"{at}[{number}]")]
    return [] if sent == stored or (sent in (False, "", 0) and stored is None) else [at]
