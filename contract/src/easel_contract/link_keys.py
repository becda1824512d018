"""What the Secret of links' keys may hold: keys separated by white space; the first signs, all verify.

So that keys can change without breaking a link that is out: the new one is put last until every gateway has read it,
then first, and the old one goes when its last link has expired.
"""

from typing import Final

MIN_LINK_KEY_CHARACTERS: Final = 32
MAX_LINK_KEYS: Final = 8


def parse_link_keys(text: str) -> tuple[bytes, ...]:
    """The keys in a text, the one that signs first. Those that are too short to be safe are left out."""
    return tuple(word.encode() for word in text.split()[:MAX_LINK_KEYS] if len(word) >= MIN_LINK_KEY_CHARACTERS)
