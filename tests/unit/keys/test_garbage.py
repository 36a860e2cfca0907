"""A process that serves looks for garbage less often, and never again at what was there when it had started."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc, weakref
from confide.keys.garbage import collect_rarely

class Cycle:
    def __init__(self):
        self.itself = self

kept = [Cycle() for _ in range(10)]
before = len(gc.get_objects())
collect_rarely()
assert gc.isenabled() and gc.get_threshold() == (10_000, 20, 20), gc.get_threshold()
assert gc.get_freeze_count() > 0.9 * before > 10 * len(gc.get_objects()), (gc.get_freeze_count(), before)
seen = weakref.ref(Cycle())
assert seen() is not None
many = [[] for _ in range(30_000)]
assert seen() is None, "what a request leaves behind is still found"
"""


def test_new_garbage_is_found_and_what_was_there_is_not_looked_at() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)
