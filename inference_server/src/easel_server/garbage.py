"""When a process that serves looks for garbage: not among what stays, and not as often as CPython does by itself.

A process that is ready holds some 100,000 objects of its libraries. A full collection looks through all of them, 50 ms
or more in which nobody is answered. Young objects are looked through whenever their number has grown by 700, and with
open requests it goes up and down by more than that. Both together took a fifth of a busy gateway's time.
"""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 10_000  # more than the requests hold that a busy gateway has open; CPython's own is 700


def freeze_startup_objects() -> None:
    """Never look again through what there is now. Call it once the process is ready."""
    gc.collect()
    gc.freeze()


def raise_gc_threshold() -> None:
    """Look for garbage after so many new objects. Not for processes whose garbage may hold a GPU's memory."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
