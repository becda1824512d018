"""What prompts say in AUTOMATIC1111's syntax, which no engine here speaks: found, so that it isn't ignored in silence.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
A parenthesis behind a backslash is one of the prompt's own. Pure; a pattern takes time linear in the prompt's length.
"""

import re
from typing import Final

from easel_server.generation.messages import truncate_repr

# (words:1.3), the inner ones of nested.
WEIGHT: Final = re.compile(r"(?<!\\)\((?:[^()\\]|\\.)*?:\s*\d*\.?\d+\s*\)")
# [from:to:0.5] and [to:10]: words that change under way.
SCHEDULE: Final = re.compile(r"(?<!\\)\[(?:[^\[\]\\]|\\.)*?:\s*\d*\.?\d+\s*\]")


def find_words(text: str) -> tuple[str, ...]:
    """What a prompt means by signs that are taken as words; each kind once, by its first example."""
    warnings = []
    for sign, pattern, meant in (("(", WEIGHT, "weights"), ("[", SCHEDULE, "changes under way")):
        found = pattern.findall(text) if sign in text else []
        if found:
            count = f", {len(found)} times" if len(found) > 1 else ""
            warnings.append(f"{meant} such as {truncate_repr(found[0])} aren't applied but taken as words{count}")
    return tuple(warnings)
