"""What a job's canonical form says, for who has no more of the job than that: a receipt holds it.  Knows nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confide.canonical import Json


def form_columns(form: Json, name: str) -> tuple[str, ...]:
    """The column groups that a canonical form asks for of input ``name``."""
    match form.get("inputs"):
        case {**inputs} if name in inputs:
            match inputs[name]:
                case {"columns": [*columns]} if all(isinstance(column, str) for column in columns):
                    return tuple(columns)
    return ()


def form_goes_on(form: Json, name: str) -> str:
    """The dataset that output ``name`` of a canonical form goes on with; empty for a new one."""
    match form.get("outputs"):
        case {**outputs} if name in outputs:
            match outputs[name]:
                case {"dataset": str(dataset)}:
                    return dataset
    return ""


def kbs_resource(form: Json, name: str) -> str:
    """The resource that a canonical form names for the key of input ``name``; empty for one of the job's broker."""
    match form.get("inputs"):
        case {**inputs} if name in inputs:
            match inputs[name]:
                case {"key": {"resource": str(uri)}}:
                    return uri
    return ""
