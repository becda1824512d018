"""The user that a service has in Redis: its name, its password, and the URL by which its pods log in as it.

Passwords are derived from one key, which the operator alone has: whatever Redis forgets can be said again without
reading a Secret of anybody, and another key is another password for all.
"""

import base64
import hmac
from urllib.parse import quote

from easel_contract.redis_url import replace_login


def name_user(prefix: str) -> str:
    """Of the service whose keys begin with ``prefix``."""
    return prefix.removesuffix(":")


def derive_password(key: str, prefix: str) -> str:
    """43 characters; who has one knows neither the key nor another's (HMAC-SHA-256, RFC 2104)."""
    digest = hmac.digest(key.encode(), name_user(prefix).encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def build_user_url(url: str, key: str, prefix: str) -> str:
    """The URL of a Redis with the service's user and password in place of those that it has."""
    return replace_login(url, f"{quote(name_user(prefix), safe='')}:{derive_password(key, prefix)}")
