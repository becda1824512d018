"""Makes and keeps the password of the Redis that the chart installs, and reads the URL of one that users have.

Redis is told first, then the Secret is written, then services get the URL: so nobody has a password that isn't let in.
"""

import asyncio
import base64
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from easel_contract import names
from easel_contract.redis_url import EXAMPLES
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.redis.password import (
    ANNOTATION_PREVIOUS_UNTIL,
    PASSWORD_KEY,
    PREVIOUS_KEY,
    REPLICATION_KEY,
    PasswordPlan,
    RedisPlace,
    SeenPassword,
    clean_password,
    decide_password,
    read_secret_data,
    read_time,
)
from easel_operator.cluster.redis.servers import check_url
from easel_operator.objects import PODS, SECRETS, Json

logger = logging.getLogger(__name__)

FRESH_BYTES: Final = 24  # of chance in a password
TIMEOUT_SECONDS: Final = 3.0
# A Redis that lets nobody in serves nobody new; restarted, it reads the passwords of the Secret. Longer than a kubelet
# needs for a mount, and seldom.
RESTART_AFTER: Final = timedelta(seconds=60)
RESTART_PAUSE: Final = timedelta(minutes=10)


class Admission(StrEnum):
    """What Redis said to the passwords."""

    ADMITTED = "admitted"
    REFUSED = "refused"  # it lets none of them in
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class RedisSource:
    """Where the URL of Redis comes from: Secrets of the operator's namespace."""

    namespace: str
    secret: str  # with the URL under SECRET_KEY_REDIS_URL
    # host:port of the installation's own, whose password is kept here; none: it is users'
    servers: tuple[str, ...] = ()
    sentinels: tuple[str, ...] = ()  # likewise, beside them where there are several
    password_secret: str = ""  # of users, whose password is followed; empty: one is made
    password_key: str = PASSWORD_KEY
    stateful_set: str = ""  # of the installation's own pods, one a server
    ca_file: str = ""  # of authorities in PEM, by which the servers are believed; empty: by the system's
    service: str = ""  # of the chart, with which what is kept of the installation's own Redis goes; empty: nothing does

    @property
    def is_ours(self) -> bool:
        """Whether it is the installation's own."""
        return bool(self.servers)

    @property
    def place(self) -> RedisPlace:
        """Of the installation's own."""
        return RedisPlace(self.servers, self.sentinels)


class PasswordKeeper:
    """One per process; only the replica that leads may use it."""

    def __init__(
        self,
        client: KubernetesClient,
        source: RedisSource,
        *,
        find_served: Callable[[], Awaitable[str | None]],
        clock: Callable[[], datetime],
    ) -> None:
        """``find_served`` says which password services were given before this process began."""
        self._client = client
        self._source = source
        self._find_served = find_served
        self._clock = clock
        self._served: str | None = None
        self._known: tuple[str, ...] = ()  # that were let in, newest first
        self._replication = ""  # the password among several servers, once it is known
        self._away: set[str] = set()  # servers, as the log has it
        self._refused_since: dict[str, datetime] = {}  # by server
        self._restarted_at: dict[str, datetime] = {}

    async def look(self, service_users: str = "") -> str | None:
        """Put right what isn't, and return the URL with the password; None while there is none.

        Redis' configuration gets the lines ``service_users`` as well. Raises KubernetesError.
        """
        secret = await self._client.get(SECRETS, self._source.namespace, self._source.secret)
        data = read_secret_data(secret)
        if not self._source.is_ours:
            return self._check_url(data.get(names.SECRET_KEY_REDIS_URL, "").strip())
        plan = decide_password(await self._gather(secret, data))
        if plan is None:
            logger.warning(
                "Secret %s/%s has no usable password under %s, and Redis waits for it",
                *(self._source.namespace, self._source.password_secret, self._source.password_key),
            )
            return None
        # The last is a Redis that somebody left without any password.
        candidates = dict.fromkeys((plan.password, *plan.previous, *self._known, *_read_passwords(data), None))
        servers = self._source.servers
        admissions = await asyncio.gather(*(self._admit(server, plan, tuple(candidates)) for server in servers))
        replication = await self._find_replication(plan, data)
        wanted = plan.to_data(self._source.place, replication, service_users)
        until = plan.previous_until.isoformat() if plan.previous_until else None
        if {name: data.get(name) for name in (*wanted, PREVIOUS_KEY)} != {PREVIOUS_KEY: None, **wanted}:
            await self._write(wanted, until)
        if self._served not in (None, plan.password):
            logger.info("Redis has another password; the one before is let in until %s", until)
        self._served = plan.password
        self._known = (plan.password, *plan.previous)
        for number, (server, admission) in enumerate(zip(servers, admissions, strict=True)):
            await self._restart_if_refused(server, number, admission)
        return wanted[names.SECRET_KEY_REDIS_URL]

    async def _find_replication(self, plan: PasswordPlan, data: Mapping[str, str]) -> str:
        """The password among several servers: what one of them has counts more than the Secret, which may be lost or
        edited, since servers and Sentinels that run never hear of another."""
        if not self._source.sentinels:
            return ""
        for server in () if self._replication else self._source.servers:
            try:
                async with _open(server, plan.password) as redis:
                    found = await redis.config_get("masterauth")
            except (exceptions.RedisError, OSError, TimeoutError):
                continue
            self._replication = self._replication or found.get("masterauth") or ""
        return self._replication or data.get(REPLICATION_KEY) or secrets.token_urlsafe(FRESH_BYTES)

    def _check_url(self, url: str) -> str | None:
        try:
            check_url(url)
        except ValueError as error:
            logger.warning(
                "Secret %s/%s has no address of a Redis under %s, %s: %s",
                *(self._source.namespace, self._source.secret, names.SECRET_KEY_REDIS_URL, EXAMPLES, error),
            )
            return None
        return url

    async def _gather(self, secret: Json | None, data: Mapping[str, str]) -> SeenPassword:
        source = self._source
        asked_for = None
        if source.password_secret:
            theirs = await self._client.get(SECRETS, source.namespace, source.password_secret)
            asked_for = clean_password(read_secret_data(theirs).get(source.password_key))
        if self._served is None:
            self._served = await self._find_served()
        annotations = (secret or {}).get("metadata", {}).get("annotations") or {}
        return SeenPassword(
            data=data,
            previous_until=read_time(annotations.get(ANNOTATION_PREVIOUS_UNTIL)),
            asked_for=asked_for,
            is_asked_for=bool(source.password_secret),
            served=self._served,
            fresh=secrets.token_urlsafe(FRESH_BYTES),
            now=self._clock(),
        )

    async def _write(self, wanted: Mapping[str, str], until: str | None) -> None:
        metadata: Json = {"namespace": self._source.namespace, "name": self._source.secret}
        if until is not None:
            metadata["annotations"] = {ANNOTATION_PREVIOUS_UNTIL: until}
        data = {name: base64.b64encode(value.encode()).decode() for name, value in wanted.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}
        await self._client.apply(SECRETS, body)

    async def _admit(self, server: str, plan: PasswordPlan, candidates: tuple[str | None, ...]) -> Admission:
        """Have it let in what the plan says and nothing else, with the first of the candidates that it lets in."""
        for password in candidates:
            try:
                await _set_passwords(server, plan, password)
            except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                continue
            except (exceptions.RedisError, OSError, TimeoutError) as error:
                if server not in self._away:
                    logger.info("Redis at %s isn't told its passwords yet: %s", server, error)
                self._away.add(server)
                return Admission.UNREACHABLE
            self._away.discard(server)
            return Admission.ADMITTED
        return Admission.REFUSED

    async def _restart_if_refused(self, server: str, number: int, admission: Admission) -> None:
        now = self._clock()
        if admission is not Admission.REFUSED:
            self._refused_since.pop(server, None)
            return
        since = self._refused_since.setdefault(server, now)
        restarted_at = self._restarted_at.get(server)
        is_paused = restarted_at is not None and now - restarted_at < RESTART_PAUSE
        if now - since < RESTART_AFTER or is_paused:
            return
        name = f"{self._source.stateful_set}-{number}"
        pod = await self._client.get(PODS, self._source.namespace, name)
        if pod is not None:
            logger.warning("Pod %s lets no password in that is known, and is restarted", name)
            await self._client.delete(PODS, self._source.namespace, name, uid=pod["metadata"]["uid"])
        del self._refused_since[server]
        self._restarted_at[server] = now


def _open(server: str, password: str | None) -> Redis:
    host, _, port = server.rpartition(":")
    return Redis(
        host=host,
        port=int(port),
        password=password,
        protocol=2,
        decode_responses=True,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), retries=0),
    )


async def _set_passwords(server: str, plan: PasswordPlan, password: str | None) -> None:
    async with _open(server, password) as redis:
        reply = await redis.execute_command("ACL GETUSER", "default")  # type: ignore[no-untyped-call] # not annotated
        present = {f"#{digest}" for digest in reply["passwords"]}
        if present != set(plan.hashes):
            # Connections that were let in stay; one command, so that there is no moment without a password.
            await redis.execute_command("ACL SETUSER", "default", "on", "resetpass", *plan.hashes)  # type: ignore[no-untyped-call] # not annotated


def read_url(secret: Json) -> str:
    """The URL that a Secret holds; empty where it holds none."""
    return read_secret_data(secret).get(names.SECRET_KEY_REDIS_URL, "").strip()


def _read_passwords(data: Mapping[str, str]) -> tuple[str, ...]:
    words = (data.get(PASSWORD_KEY, ""), *data.get(PREVIOUS_KEY, "").split("\n"))
    return tuple(word for word in words if word)
