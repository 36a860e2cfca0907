"""The ranges of remote inputs that a node's program asks its agent for, which has the storage's credential."""

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
    """``input-range``: ``length`` bytes from ``start`` on of the file ``path`` of the remote input ``name``, as the storage has them.

    Raises:
        ProtocolError: there is no such range.
        IntegrityError: the storage has a file of another length, or none.
        UnavailableError, DataError: the storage refuses, does not answer, or has another version now.
    """
    found, path = inputs.get(field(request, "name", str)), field(request, "path", str)
    start, length = field(request, "start", int), field(request, "length", int)
    size = None if found is None else found.sizes.get(path)
    if found is None or not isinstance(found.folder, RemoteFolder) or size is None:
        raise ProtocolError("the job has no such file in a remote storage")
    if start < 0 or not 0 < length <= min(MOST, size - start):
        raise ProtocolError("not a range of the file", path=path)
    try:
        with (found.folder / path).open() as file:
            if file.size != size:
                message = f"a file has another length than its manifest says: {path}"
                raise IntegrityError(message, path=path, expected=size, got=file.size)
            file.seek(start)
            data = file.read(length) or b""
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {path}", path=path) from cause
    return {"data": base64.b64encode(data).decode("ascii")}
