"""When Python looks for garbage that reference counts have not found, in a process that serves.

By default it looks after each 700 new objects, and now and then through all that the process has: about a fifteenth of a release's time,
to find next to nothing, since requests leave hardly any cycles behind.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 10_000
"""As many new objects as some ten releases make, and a few MiB if all of them were garbage."""
_ROUNDS: Final = 20
"""So many looks at what is new before one at what was new then, and so on (``gc.set_threshold``)."""


def collect_rarely() -> None:
    """Look for garbage less often from now on, and never again at what is there by now.  For a process that has started up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)
