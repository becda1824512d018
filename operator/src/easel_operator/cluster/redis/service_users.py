"""Each service's own user in Redis: made when it appears, deleted when it is gone, said again to a Redis that forgot.

Redis is told before services are given a URL with it. A Redis of users' own may refuse; services share its user then.
Where there are replicas each is told, since users aren't replicated: the one that becomes the master lets services in.
"""

import base64
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from easel_contract import names
from redis import exceptions
from redis.asyncio import Redis

from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.redis.password import (
    ANNOTATION_PREVIOUS_UNTIL,
    GRACE,
    clean_password,
    hash_password,
    read_secret_data,
    read_time,
)
from easel_operator.cluster.redis.servers import find_servers, open_server
from easel_operator.decide.drift import contains
from easel_operator.manifests.redis_user import derive_password, name_user
from easel_operator.objects import SECRETS, SERVICES, Json

logger = logging.getLogger(__name__)

FRESH_BYTES: Final = 32  # of chance in a key
BATCH: Final = 500  # users that one round trip makes or deletes
MAX_LINES_BYTES: Final = 900 * 1024  # of a Secret, which may have 1 MiB in all
USER_PREFIX: Final = "easel:{"  # with which every service's user begins

KEY: Final = "key"
KEY_IN_FORCE: Final = "key-in-force"  # by which services were last given passwords
PREVIOUS_KEY: Final = "previous-key"
ANNOTATION_REFUSAL: Final = "easel.dev/redis-users-refused"  # why users' own Redis takes none; it outlives a restart


@dataclass(frozen=True)
class UserKey:
    """From which passwords are derived, and until when those of the one before are let in."""

    current: str
    previous: str | None = None
    previous_until: datetime | None = None

    def to_hashes(self, prefix: str) -> tuple[str, ...]:
        """Of a service's passwords, as the rules of an ACL take them."""
        keys = (self.current, *((self.previous,) if self.previous else ()))
        return tuple(f"#{hash_password(derive_password(key, prefix))}" for key in keys)

    def to_data(self) -> dict[str, str]:
        """Contents of the Secret."""
        data = {KEY: self.current, KEY_IN_FORCE: self.current}
        return data | ({PREVIOUS_KEY: self.previous} if self.previous else {})


@dataclass
class _Admitted:
    """What one server was told."""

    run_id: str = ""  # of the process
    made: dict[str, tuple[str, ...]] = field(default_factory=dict)  # rules by prefix


def decide_key(
    data: Mapping[str, str], until: datetime | None, *, known: str | None, fresh: str, now: datetime
) -> UserKey:
    """By what the Secret has: one without ``key`` asks for another; one that is lost comes back as it was ``known``."""
    in_force = known or data.get(KEY_IN_FORCE)
    current = clean_password(data.get(KEY)) or (fresh if data else in_force or fresh)
    previous = data.get(PREVIOUS_KEY) if until is not None and until > now else None
    if in_force is not None and in_force not in (current, previous):
        previous, until = in_force, now + GRACE
    if previous is None or previous == current:
        return UserKey(current)
    return UserKey(current, previous, until)


def build_rules(prefix: str, key: UserKey) -> tuple[str, ...]:
    """What a service's user may do, as words of an ACL: its commands, on its keys and channels."""
    return ("on", *key.to_hashes(prefix), f"~{prefix}*", f"&{prefix}*", *names.REDIS_ACL_COMMANDS)


class ServiceUsers:
    """One per process; only the replica that leads may use it."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        secret: str,
        is_ours: bool,
        clock: Callable[[], datetime],
        service: str = "",
    ) -> None:
        """``secret`` is the one that the key is kept in; ``is_ours``: nobody else makes users in this Redis;
        ``service``: a Service of the chart with which the Secret goes; empty: it stays."""
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._is_ours = is_ours
        self._service = service
        self._clock = clock
        self._key: UserKey | None = None
        self._admitted: dict[str, _Admitted] = {}  # by the server's URL, the master first
        self._owners: list[Json] = []
        self._is_away = False  # as the log has it
        self._is_too_long = False  # the same
        # Of a Redis of users' own nothing is known before it has answered once: services share its user until then.
        self._refusal = "" if is_ours else "it hasn't been asked yet"

    @property
    def key(self) -> str:
        """From which services' passwords are derived; empty while they share the operator's user."""
        return self._key.current if self._key is not None and not self._refusal else ""

    @property
    def refusal(self) -> str:
        """Why services share a user; empty while each has its own."""
        return self._refusal

    def lack(self, prefixes: Collection[str]) -> bool:
        """Whether one of these services has no user yet that it should have."""
        admitted = next(iter(self._admitted.values()), _Admitted())
        return not self._refusal and not admitted.made.keys() >= set(prefixes)

    async def read_key(self) -> None:
        """Learn of the key, and keep it. Raises KubernetesError."""
        secret = await self._client.get(SECRETS, self._namespace, self._secret)
        annotations = (secret or {}).get("metadata", {}).get("annotations") or {}
        data = read_secret_data(secret)
        is_first = self._key is None
        known = self._key.current if self._key is not None else None
        until = read_time(annotations.get(ANNOTATION_PREVIOUS_UNTIL))
        fresh = secrets.token_urlsafe(FRESH_BYTES)
        key = decide_key(data, until, known=known, fresh=fresh, now=self._clock())
        if known not in (None, key.current):
            logger.info(
                "Services get other passwords of Redis; the ones before are let in until %s", key.previous_until
            )
        if is_first and not self._is_ours and KEY in data:
            self._refusal = annotations.get(ANNOTATION_REFUSAL, "")
        self._key = key
        owners = await self._find_owners()
        is_owned = contains((secret or {}).get("metadata", {}).get("ownerReferences") or [], owners)
        if data != key.to_data() or annotations.get(ANNOTATION_REFUSAL, "") != self._refusal or not is_owned:
            await self._write(key, owners)

    async def _find_owners(self) -> list[Json]:
        """Looked for once; a Service that was made anew is found by the next operator."""
        if self._service and not self._owners:
            live = await self._client.get(SERVICES, self._namespace, self._service)
            uid = live["metadata"]["uid"] if live is not None else None
            owner = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "name": self._service, "uid": uid}
            self._owners = [owner] if uid else []
        return self._owners

    async def _write(self, key: UserKey, owners: list[Json]) -> None:
        annotations = {
            **({ANNOTATION_PREVIOUS_UNTIL: key.previous_until.isoformat()} if key.previous_until else {}),
            **({ANNOTATION_REFUSAL: self._refusal} if self._refusal else {}),
        }
        metadata: Json = {"namespace": self._namespace, "name": self._secret, "annotations": annotations}
        metadata |= {"ownerReferences": owners} if owners else {}
        data = {name: base64.b64encode(value.encode()).decode() for name, value in key.to_data().items()}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}
        await self._client.apply(SECRETS, body)

    def list_lines(self, prefixes: Collection[str]) -> str:
        """For the configuration of Redis, so that it lets services in after a restart without the operator."""
        if self._key is None:
            return ""
        lines: list[str] = []
        size = 0
        for prefix in sorted(prefixes):
            line = f"user {name_user(prefix)} {' '.join(build_rules(prefix, self._key))}\n"
            size += len(line)
            if size > MAX_LINES_BYTES:
                break
            lines.append(line)
        left_out = len(prefixes) - len(lines)
        if left_out and not self._is_too_long:
            logger.warning(
                "%d of %d services have no room in the Secret: after a restart of Redis they wait for the operator",
                *(left_out, len(prefixes)),
            )
        self._is_too_long = left_out > 0
        return "".join(lines)

    async def admit(self, url: str, prefixes: Collection[str], registry: str) -> None:
        """Have Redis let in these services, each as its own user. What fails is tried again.

        Of others only those stay that are still in ``registry`` (a key of Redis): the pods of a deleted service tell
        its waiters how their jobs end, and its user goes when nothing is left of it (``ServiceKeys.forget``).
        """
        if self._key is None:
            return
        rules = {prefix: build_rules(prefix, self._key) for prefix in prefixes}
        try:
            master, *replicas = await find_servers(url)
            self._admitted = {server: self._admitted.get(server, _Admitted()) for server in (master, *replicas)}
            refusal = await self._admit_on(master, rules, registry)
        except exceptions.ResponseError as error:
            refusal = f"{type(error).__name__}: {error}"
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            if not self._is_away:
                logger.info("Redis isn't told the users of services yet: %s", error)
            self._is_away = True
            return
        self._is_away = False
        if refusal and refusal != self._refusal:
            logger.warning("Services share one user of Redis: %s", refusal)
        self._refusal = refusal
        for replica in () if refusal else replicas:
            await self._admit_on_replica(replica, rules, registry)

    async def _admit_on_replica(self, url: str, rules: Mapping[str, tuple[str, ...]], registry: str) -> None:
        """It serves nobody yet; one that can't be told is told again."""
        try:
            await self._admit_on(url, rules, registry)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            if self._admitted[url].run_id:  # said once
                logger.info("A replica of Redis isn't told the users of services: %s", error)
            self._admitted[url] = _Admitted()

    async def _admit_on(self, url: str, rules: Mapping[str, tuple[str, ...]], registry: str) -> str:
        async with open_server(url, decode_responses=True) as redis:
            return await self._look(redis, self._admitted[url], rules, registry)

    async def _look(
        self, redis: Redis, admitted: _Admitted, wanted: Mapping[str, tuple[str, ...]], registry: str
    ) -> str:
        """Why this Redis is one where services share a user; empty once all have their own."""
        server: dict[str, Any] = await redis.info("server")
        if server.get("redis_mode") == "cluster":
            return "it is a Redis Cluster, each of whose servers would have to be told"
        if admitted.run_id != server.get("run_id"):  # restarted, or another process listens there
            admitted.run_id, admitted.made = str(server.get("run_id")), {}
        present: list[str] = await redis.execute_command("ACL USERS")  # type: ignore[no-untyped-call] # not annotated
        known = set(present)
        news = {
            prefix: rules
            for prefix, rules in wanted.items()
            if admitted.made.get(prefix) != rules or name_user(prefix) not in known
        }
        await _make(redis, admitted, news)
        ending = [str(prefix) for prefix in await redis.hkeys(registry)]
        users = {name_user(prefix) for prefix in (*wanted, *ending)}
        stale = {name_user(prefix) for prefix in admitted.made} - users
        if self._is_ours:
            stale |= {user for user in present if user.startswith(USER_PREFIX)} - users
        for batch in _split(sorted(stale)):
            await redis.execute_command("ACL DELUSER", *batch)  # type: ignore[no-untyped-call] # not annotated
        admitted.made = {prefix: rules for prefix, rules in admitted.made.items() if prefix in wanted}
        return ""


async def _make(redis: Redis, admitted: _Admitted, news: Mapping[str, tuple[str, ...]]) -> None:
    """One command a user, so that there is no moment without a right; connections that were let in stay."""
    for batch in _split(list(news)):
        pipeline = redis.pipeline(transaction=False)
        for prefix in batch:
            pipeline.execute_command("ACL SETUSER", name_user(prefix), "reset", *news[prefix])
        await pipeline.execute()
        admitted.made |= {prefix: news[prefix] for prefix in batch}


def _split(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
