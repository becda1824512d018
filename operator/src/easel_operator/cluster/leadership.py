"""Which replica of the operator writes: the holder of a Lease, as client-go's leader election does it.

Expiry is judged by how long the record has been seen unchanged on this machine's monotonic clock, so that clocks of
different machines need not agree. https://kubernetes.io/docs/concepts/architecture/leases/
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.objects import LEASES, Json
from easel_operator.operator_metrics import FAULTS

logger = logging.getLogger(__name__)

LEASE_NAME: Final = "easel-operator"
RENEWALS_PER_DURATION: Final = 5  # how many tries to renew fit into a lease
STANDBY_LOOK_SECONDS: Final = 1.0  # between two looks of who waits: a lease that was released is taken that soon
SHORTEST_PAUSE_SECONDS: Final = 0.05
# The holder ends before others may take over, so that never two replicas write.
DEADLINE_FRACTION: Final = 2 / 3


class LeadershipLostError(Exception):
    """The lease couldn't be renewed in time; this process must stop writing, which it does by ending."""


class Leadership:
    """One replica's candidacy."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        identity: str,
        duration_seconds: float,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._duration_seconds = duration_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._seen_record: Json | None = None
        self._seen_at = 0.0
        self._acquired = asyncio.Event()

    def is_leader(self) -> bool:
        """Whether this replica holds the lease."""
        return self._acquired.is_set()

    async def wait_until_leader(self) -> None:
        """Wait for the lease."""
        await self._acquired.wait()

    async def run(self) -> None:
        """Acquire the lease and keep it for ever. Raises LeadershipLostError."""
        pause_seconds = self._duration_seconds / RENEWALS_PER_DURATION
        renewed_at = self._monotonic()
        while True:
            tried_at = self._monotonic()
            if await self._try_within(pause_seconds):
                renewed_at = tried_at  # from before the request: the record may be that old
                if not self._acquired.is_set():
                    logger.info("%s leads", self._identity)
                    self._acquired.set()
            elif self._acquired.is_set():
                self._check_deadline(self._monotonic() - renewed_at)
            await asyncio.sleep(self._find_pause(pause_seconds))

    def _find_pause(self, pause_seconds: float) -> float:
        """Until the next try: who waits looks again at the very moment when the lease expires."""
        if self._acquired.is_set() or self._seen_record is None:
            return pause_seconds
        expires_in = self._seen_at + self._read_duration(self._seen_record) - self._monotonic()
        return max(SHORTEST_PAUSE_SECONDS, min(pause_seconds, STANDBY_LOOK_SECONDS, expires_in))

    def _check_deadline(self, age_seconds: float) -> None:
        if age_seconds > self._duration_seconds * DEADLINE_FRACTION:
            raise LeadershipLostError(
                f"{self._identity} couldn't renew Lease {self._namespace}/{LEASE_NAME} for {age_seconds:.0f} s"
            )

    async def _try_within(self, seconds: float) -> bool:
        """Try; no answer in time is a failure: a request's own time-out is longer than a lease."""
        try:
            async with asyncio.timeout(seconds):
                return await self._try()
        except TimeoutError:
            logger.warning("Lease %s/%s: no answer within %.1f s", self._namespace, LEASE_NAME, seconds)
            return False
        except Exception:
            # Whatever it is, the lease wasn't renewed; the deadline decides what follows from that.
            logger.exception("Lease %s/%s: a fault of the operator's own", self._namespace, LEASE_NAME)
            FAULTS.labels("leadership").inc()
            return False

    async def release(self) -> None:
        """Let another replica lead at once; called when nothing writes any more."""
        if not self._acquired.is_set():
            return
        self._acquired.clear()
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
            if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                await self._replace(lease, {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1})
        except KubernetesError as error:
            logger.warning("The lease wasn't released; another replica takes over when it expires: %s", error)

    async def _try(self) -> bool:
        """Acquire or renew; False if another holds the lease or the API server didn't let us."""
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
            if lease is None:
                await self._create()
                return True
            record = lease.get("spec", {})
            if record != self._seen_record:
                self._seen_record, self._seen_at = record, self._monotonic()
            if not self._may_take(record):
                return False
            await self._replace(lease, self._build_record(record))
        except ApiRefusedError as error:
            if error.status != HTTPStatus.CONFLICT:  # on a conflict, another replica was faster
                logger.warning("Lease %s/%s: %s", self._namespace, LEASE_NAME, error)
            return False
        except KubernetesError as error:
            logger.warning("Lease %s/%s: %s", self._namespace, LEASE_NAME, error)
            return False
        return True

    def _may_take(self, record: Json) -> bool:
        holder = record.get("holderIdentity")
        if holder in (None, "", self._identity):
            return True
        return self._monotonic() - self._seen_at > self._read_duration(record)

    def _read_duration(self, record: Json) -> float:
        """For how long a record holds, by its own word."""
        seconds: float = record.get("leaseDurationSeconds", self._duration_seconds)
        return seconds

    async def _create(self) -> None:
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._namespace, "name": LEASE_NAME},
            "spec": self._build_record({}),
        }
        await self._client.request("POST", LEASES.path(self._namespace), body=body)

    async def _replace(self, lease: Json, record: Json) -> None:
        # The resourceVersion that was read goes along: the server refuses if another replica wrote in between.
        await self._client.request("PUT", LEASES.path(self._namespace, LEASE_NAME), body={**lease, "spec": record})

    def _build_record(self, earlier: Json) -> Json:
        now = self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_ours = earlier.get("holderIdentity") == self._identity
        transitions = int(earlier.get("leaseTransitions", 0))
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._duration_seconds),
            "acquireTime": earlier.get("acquireTime", now) if is_ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if is_ours else transitions + 1,
        }
