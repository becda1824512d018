"""Labels that every series of a page has, such as the service that a pod is of.

prometheus-client has no labels of a registry, so they are put into the text:
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import re
from collections.abc import Mapping
from typing import Final

BARE: Final = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*) ", re.MULTILINE)
LABELLED: Final = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)\{", re.MULTILINE)


def label_page(page: bytes, labels: Mapping[str, str]) -> bytes:
    """The page with these labels on each sample. None of its own may have one of their names."""
    if not labels:
        return page
    text = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    template = text.replace("\\", "\\\\").encode()  # for re, which reads backslashes
    return BARE.sub(rb"\1{" + template + rb"} ", LABELLED.sub(rb"\1{" + template + rb",", page))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
