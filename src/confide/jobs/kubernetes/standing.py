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
from confide.jobs.kubernetes.said import as_object, as_text, words

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
    kept = as_object((api.get("ConfigMap", f"{run}-{RESULT_SUFFIX}") or {}).get("data"))
    found = [node_standing(pod, kept.get(STANDING)) for pod in api.list("Pod", label_selector=f"{RUN_LABEL}={run}")]
    return sorted(found, key=lambda one: (one.node != "driver", one.node)), RESULT in kept


def node_standing(pod: Json, kept: object) -> NodeStanding:
    """One pod, and of what is kept of the driver's words that on it.  All of it is fit to be shown."""
    about, condition = as_object(pod.get("metadata")), condition_of(pod)
    node = as_text(as_object(about.get("labels")).get(NODE_LABEL))
    word = as_object(_parsed(kept).get(node))
    return NodeStanding(
        node=words(node),
        pod=words(as_text(about.get("name"))),
        host=words(as_text(as_object(pod.get("spec")).get("nodeName"))),
        shape=words(as_text(as_object(about.get("annotations")).get(_SHAPE))),
        phase=str(condition.phase),
        condition=condition.words,
        said=words(as_text(word.get("type"))),
        code=words(as_text(word.get("code"))),
    )


def _parsed(text: object) -> Json:
    try:
        return parse_object(as_text(text).encode("utf-8", "replace"))
    except ParseError:
        return {}
