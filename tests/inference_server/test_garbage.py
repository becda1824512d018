"""Garbage is still found, and what stays is spared. In a process of its own: it all counts for a whole process."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from easel_server.main import YOUNG_OBJECTS, raise_gc_threshold, freeze_startup_objects

class Ring:
    def __init__(self):
        self.itself = self

kept = [[number] for number in range(1000)]
lost = weakref.ref(Ring())
raise_gc_threshold()
freeze_startup_objects()
assert lost() is None, "garbage was kept for ever"
assert not any(one is kept for one in gc.get_objects()), "what stays is looked through again"
later = weakref.ref(Ring())
assert later() is not None
held = [[] for _ in range(YOUNG_OBJECTS + 1)]
assert later() is None, "garbage isn't looked for"
"""


def test_what_stays_is_spared_and_later_garbage_is_found():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
