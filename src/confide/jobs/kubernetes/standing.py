"""How a run's nodes stand, for people who look at a run in a cluster whose client is away: the driver's word, and what the cluster says.

Nothing here is proven: the word lies where the cluster can change it.  What was attested, the client knows that comes back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from confide.canonical import Json, parse_object
from confide.errors import ParseError
from confide.jobs.kubernetes.condition import condition_of
from confide.jobs.kubernetes.objects import RESULT_SUFFIX
from confide.jobs.kubernetes.pod_host import RESULT, STANDING
from confide.jobs.kubernetes.pods import NODE_LABEL, RUN_LABEL

if TYPE_CHECKING:
    from confide.ids import RunId
    from confide.jobs.kubernetes.api import Api

_SHAPE: Final = "confide.dev/shape"


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """One pod: ``host`` is the machine that it is on, ``condition`` what it waits for or how it ended, ``said`` the driver's last word."""

    node: str
    pod: str
    host: str
    shape: str
    phase: str
    condition: str
    said: str
    code: str

    def to_json(self) -> Json:
        """As JSON."""
        return asdict(self)


def standing_of(api: Api, run: RunId) -> tuple[list[NodeStanding], bool]:
    """The run's pods by node, and whether the run has left its result.

    Raises:
        ConfideError: the cluster cannot be asked.
    """
    kept = (api.get("ConfigMap", f"{run}-{RESULT_SUFFIX}") or {}).get("data") or {}
    said = _parsed(kept.get(STANDING))
    found = [_node(pod, said) for pod in api.list("Pod", label_selector=f"{RUN_LABEL}={run}")]
    return sorted(found, key=lambda one: (one.node != "driver", one.node)), RESULT in kept


def _node(pod: Json, said: Json) -> NodeStanding:
    about, condition = pod.get("metadata") or {}, condition_of(pod)
    node = str((about.get("labels") or {}).get(NODE_LABEL, ""))
    word = said.get(node)
    word = word if isinstance(word, dict) else {}
    return NodeStanding(
        node=node,
        pod=str(about.get("name", "")),
        host=str((pod.get("spec") or {}).get("nodeName") or ""),
        shape=str((about.get("annotations") or {}).get(_SHAPE, "")),
        phase=str(condition.phase),
        condition=condition.words,
        said=str(word.get("type") or ""),
        code=str(word.get("code") or ""),
    )


def _parsed(text: object) -> Json:
    try:
        return parse_object(str(text).encode()) if text is not None else {}
    except ParseError:
        return {}
