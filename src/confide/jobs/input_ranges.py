"""The ranges of remote inputs that a node's processes ask its agent for, which has the storage's credential: a program, or an executor."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from confide.data.agent_files import MOST
from confide.data.places import RemoteFolder
from confide.errors import IntegrityError, ProtocolError
from confide.node.control import field

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.jobs.inputs import VerifiedInput


def input_range(inputs: Mapping[str, VerifiedInput], request: Json) -> Json:
    """``input-range``: ``length`` bytes from ``start`` on of the file of a remote input, as the storage has them.

    ``path`` is what this node's processes call the file: below the input's ``root``, as for ``input-length`` and for keys.

    Raises:
        ProtocolError: there is no such range.
        IntegrityError: the storage has a file of another length, or none.
        UnavailableError, DataError: the storage refuses, does not answer, or has another version now.
    """
    folder, path, size = _listed(inputs, field(request, "path", str))
    start, length = field(request, "start", int), field(request, "length", int)
    if start < 0 or not 0 < length <= min(MOST, size - start):
        raise ProtocolError("not a range of the file", path=path)
    try:
        with (folder / path).open() as file:
            if file.size != size:
                message = f"a file has another length than its manifest says: {path}"
                raise IntegrityError(message, path=path, expected=size, got=file.size)
            file.seek(start)
            data = file.read(length) or b""
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {path}", path=path) from cause
    return {"data": base64.b64encode(data).decode("ascii")}


def _listed(inputs: Mapping[str, VerifiedInput], name: str) -> tuple[RemoteFolder, str, int]:
    """The file that this node's processes call ``name``: its storage, its path there, and its length by the verified manifest."""
    for found in inputs.values():
        path = name.removeprefix(f"{found.root}/")
        if isinstance(found.folder, RemoteFolder) and path != name and path in found.sizes:
            return found.folder, path, found.sizes[path]
    raise ProtocolError("the job has no such file in a remote storage")
