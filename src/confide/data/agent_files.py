"""Encrypted files of an input in a remote storage, as a program on a node sees them: its agent fetches each range that is asked for.

The credential of the storage is the agent's alone.  What comes is as the storage gave it: readers authenticate it as they do files.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from confide.data.places import RangedFolder, Version
from confide.errors import ProtocolError
from confide.node.local_socket import LocalSocketClient
from confide.seekable import SeekableReader

MOST: Final = 16 << 20
"""Bytes of one answer: its base64 is well below what a line of the agent's socket may have."""


class AgentFolder(RangedFolder):
    """The files of the input that a node's processes call ``root``, with their ``sizes`` by the verified manifest."""

    def __init__(self, agent: LocalSocketClient, root: str, sizes: Mapping[str, int]) -> None:
        super().__init__(root)
        self._agent, self._sizes = agent, sizes

    def look(self, path: str) -> Version | None:
        """By the manifest: the agent gives ranges of files of that length only."""
        size = self._sizes.get(path)
        return None if size is None else Version(size, "")

    def reader(self, path: str, version: Version) -> SeekableReader:
        """Each read asks the agent."""
        return _AgentFile(self._agent, str(self / path), version.size)


class _AgentFile(SeekableReader):
    def __init__(self, agent: LocalSocketClient, path: str, size: int) -> None:
        super().__init__()
        self._agent, self._path, self._size = agent, path, size

    @property
    def size(self) -> int:
        """Length in bytes, by the manifest."""
        return self._size

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer``, by as many questions as it takes.

        Raises:
            ConfideError: what the agent says of the storage.
            ProtocolError: its answer is no range of that length.
        """
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        done = 0
        while done < wanted:
            count = min(MOST, wanted - done)
            answer = self._agent.call("input-range", path=self._path, start=self._position, length=count)
            try:
                data = base64.b64decode(answer["data"], validate=True)
            except (KeyError, TypeError, ValueError, binascii.Error) as cause:
                raise ProtocolError("the agent's answer is no range of a file") from cause
            if len(data) != count:
                raise ProtocolError("the agent's answer has another length than was asked for", expected=count, got=len(data))
            view[done : done + count] = data
            done += count
            self._position += count
        return wanted
