"""Which passwords the installation's own Redis lets in, and what its Secret holds: values and the decision, no I/O.

The Secret's ``password`` is what users set, ``url`` and ``users.conf`` follow from it. One that has been replaced is
let in for a while longer, as pods learn of the new one when their kubelet renews what they have mounted. Several
servers and their Sentinels have a password among themselves, which stays.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from easel_contract import names

from easel_operator.objects import Json

# A kubelet renews what is mounted within its sync period and its cache's, about two minutes as they are set.
GRACE: Final = timedelta(minutes=5)
MAX_PREVIOUS: Final = 3
MAX_PASSWORD_CHARACTERS: Final = 512

PASSWORD_KEY: Final = "password"  # noqa: S105 - a key of the Secret
PREVIOUS_KEY: Final = "previous-passwords"  # a line each
USERS_KEY: Final = "users.conf"  # a part of Redis' configuration
REPLICATION_KEY: Final = "replication-password"
REPLICATION_USER: Final = "replication"
SENTINELS_MASTER: Final = "easel"  # what the chart's Sentinels call it
# What replicas ask of their master and Sentinels of all servers:
# https://valkey.io/topics/sentinel/#redis-access-control-list-authentication and .../topics/acl/
REPLICATION_RULES: Final = (
    "allchannels +psync +replconf +ping +multi +exec +slaveof +replicaof +subscribe +publish +role +info "
    "+config|rewrite +client|setname +client|kill +script|kill"
)
ANNOTATION_PREVIOUS_UNTIL: Final = "easel.dev/previous-passwords-until"


@dataclass(frozen=True)
class SeenPassword:
    """What is known before a decision."""

    data: Mapping[str, str]  # of the Secret; empty where there is none
    previous_until: datetime | None  # as its annotation says
    asked_for: str | None  # by a Secret of users' own; None: they name none, or it has no usable one
    is_asked_for: bool  # they name one
    served: str | None  # what services were last given
    fresh: str  # one that nobody has yet, made by chance
    now: datetime


@dataclass(frozen=True)
class RedisPlace:
    """Where the installation's own Redis is, each as ``host:port``."""

    servers: tuple[str, ...]
    sentinels: tuple[str, ...] = ()  # beside them, where there are several

    def build_url(self, password: str) -> str:
        """As the default user, for the operator and for services."""
        login = f":{quote(password, safe='')}"
        if self.sentinels:
            return f"redis+sentinel://{login}@{','.join(self.sentinels)}/{SENTINELS_MASTER}/0"
        return f"redis://{login}@{self.servers[0]}/0"


@dataclass(frozen=True)
class PasswordPlan:
    """What is to be let in."""

    password: str
    previous: tuple[str, ...]  # newest first
    previous_until: datetime | None  # None where there is no previous one

    def to_data(self, place: RedisPlace, replication: str, service_users: str = "") -> dict[str, str]:
        """Contents of the Secret.

        Args:
            place: where Redis is.
            replication: the password that servers have among themselves; empty where there is one server.
            service_users: more lines of users.
        """
        lines = [f"user default on {' '.join(self.hashes)} ~* &* +@all"]
        if replication:
            lines.append(f"user {REPLICATION_USER} on #{hash_password(replication)} {REPLICATION_RULES}")
        data = {
            PASSWORD_KEY: self.password,
            names.SECRET_KEY_REDIS_URL: place.build_url(self.password),
            USERS_KEY: "\n".join([*lines, service_users]),
            **({REPLICATION_KEY: replication} if replication else {}),
        }
        return data | ({PREVIOUS_KEY: "\n".join(self.previous)} if self.previous else {})

    @property
    def hashes(self) -> tuple[str, ...]:
        """As the rules of an ACL take them: a # and the SHA-256."""
        return tuple(f"#{hash_password(word)}" for word in (self.password, *self.previous))


def hash_password(password: str) -> str:
    """As Redis keeps and shows it."""
    return hashlib.sha256(password.encode()).hexdigest()


def read_password(url: str) -> str | None:
    """The default user's password in a Redis URL; None where it has none, is another user's, or is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return unquote(parts.password) if parts.password and parts.username in (None, "", "default") else None


def clean_password(text: str | None) -> str | None:
    """A password as users wrote it into a Secret, without the line end that editors leave; None if it is unusable."""
    password = (text or "").strip()
    return password if 0 < len(password) <= MAX_PASSWORD_CHARACTERS and password.isprintable() else None


def decide_password(seen: SeenPassword) -> PasswordPlan | None:
    """None while users name a Secret that has none, and there is no other to go on with."""
    kept = clean_password(seen.data.get(PASSWORD_KEY))
    password = seen.asked_for or kept or seen.served or (None if seen.is_asked_for else seen.fresh)
    if password is None:
        return None
    in_force = seen.served or read_password(seen.data.get(names.SECRET_KEY_REDIS_URL, ""))
    is_over = seen.previous_until is None or seen.previous_until <= seen.now
    previous = [] if is_over else [line for line in seen.data.get(PREVIOUS_KEY, "").split("\n") if line]
    until = seen.previous_until
    if in_force is not None and in_force != password and in_force not in previous:
        previous, until = [in_force, *previous], seen.now + GRACE
    previous = [word for word in previous if word != password][:MAX_PREVIOUS]
    return PasswordPlan(password, tuple(previous), until if previous else None)


def read_secret_data(secret: Json | None) -> dict[str, str]:
    """A Secret's values as text; those that are none are left out."""
    found: dict[str, str] = {}
    for name, value in ((secret or {}).get("data") or {}).items():
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return found


def read_time(text: str | None) -> datetime | None:
    """Of an annotation; None where it is none, or doesn't say where on earth."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
