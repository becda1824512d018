"""The front proxy's CA changes in ConfigMap extension-apiserver-authentication. Real TLS, an API server in memory."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from easel_operator.cluster import metrics_endpoint
from easel_operator.cluster.capabilities import Installation
from easel_operator.cluster.external_metrics import GROUP_VERSION, ExternalMetricsServer
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint

from tests.operator.fake_api import FakeApi
from tests.operator.metrics_api.support import NOW, Authority, build_authority, build_client_context
from tests.support.redis_server import find_free_port

CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
CLIENT = "front-proxy-client"
SECRET = "/api/v1/namespaces/easel/secrets/localhost-tls"


class Aggregation:
    """The operator's endpoint as the cluster configures it, and what kube-apiserver's aggregator sees of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.api = FakeApi()
        self.server = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: NOW)
        self.port = find_free_port()
        self.endpoint = MetricsEndpoint(
            self.api,
            self.server,
            installation=Installation("easel", "localhost", is_api_wanted=True),
            port=self.port,
            clock=lambda: NOW,
        )

    async def trust(self, *authorities: Authority, names: tuple[str, ...] = (CLIENT,)) -> None:
        """Write the ConfigMap as kube-apiserver does, and have the operator look at it."""
        bundle = "".join(authority.pem for authority in authorities)
        data = {"requestheader-client-ca-file": bundle, "requestheader-allowed-names": json.dumps(names)}
        self.api.store(CONFIG_MAP, {"metadata": {"name": "extension-apiserver-authentication"}, "data": data})
        await self.endpoint.refresh()

    def open_session(self, authority: Authority | None, common_name: str = CLIENT) -> aiohttp.ClientSession:
        """A client that keeps its connection, with a certificate of this authority, or with none."""
        ca = base64.b64decode(self.api.objects[SECRET]["data"]["ca.crt"])
        client = authority.issue(common_name, self._directory) if authority else None
        context = build_client_context(ca, client)
        context.check_hostname = False  # the certificate is for the Service's name
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=10)
        )

    async def ask(self, session: aiohttp.ClientSession) -> int:
        """HTTP status of the discovery document; 0 where TLS refuses the client."""
        try:
            async with session.get(f"https://localhost:{self.port}/apis/{GROUP_VERSION}") as response:
                return response.status
        except (aiohttp.ClientError, ConnectionError):
            return 0

    async def ask_anew(self, authority: Authority | None, common_name: str = CLIENT) -> int:
        async with self.open_session(authority, common_name) as session:
            return await self.ask(session)


@pytest.fixture
async def aggregation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aggregation]:
    monkeypatch.setattr(metrics_endpoint, "ANY_ADDRESS", "127.0.0.1")
    made = Aggregation(tmp_path)
    yield made
    await made.server.close()


async def test_after_a_rotation_the_new_authority_is_believed_and_the_old_one_is_not(aggregation: Aggregation) -> None:
    old, new = build_authority("front-proxy-ca"), build_authority("front-proxy-ca")
    await aggregation.trust(old)
    assert [await aggregation.ask_anew(old), await aggregation.ask_anew(new)] == [200, 0]
    await aggregation.trust(new)
    assert [await aggregation.ask_anew(old), await aggregation.ask_anew(new)] == [0, 200]


async def test_while_a_rotation_is_under_way_both_authorities_are_believed(aggregation: Aggregation) -> None:
    old, new = build_authority("front-proxy-ca-1"), build_authority("front-proxy-ca-2")
    await aggregation.trust(old, new)
    assert [await aggregation.ask_anew(old), await aggregation.ask_anew(new)] == [200, 200]


async def test_a_connection_that_the_old_authority_opened_does_not_outlive_it(aggregation: Aggregation) -> None:
    old, new = build_authority("front-proxy-ca"), build_authority("front-proxy-ca")
    await aggregation.trust(old)
    async with aggregation.open_session(old) as session:
        assert await aggregation.ask(session) == 200
        await aggregation.trust(new)
        assert await aggregation.ask(session) == 0


async def test_a_look_at_an_unchanged_config_map_leaves_connections_open(aggregation: Aggregation) -> None:
    authority = build_authority("front-proxy-ca")
    await aggregation.trust(authority)
    async with aggregation.open_session(authority) as session:
        assert await aggregation.ask(session) == 200
        held = _connections(aggregation)
        await aggregation.trust(authority)
        assert await aggregation.ask(session) == 200
        assert _connections(aggregation) == held


async def test_names_that_change_are_asked_for_at_once(aggregation: Aggregation) -> None:
    authority = build_authority("front-proxy-ca")
    await aggregation.trust(authority)
    await aggregation.trust(authority, names=("aggregator",))
    assert await aggregation.ask_anew(authority) == 403
    assert await aggregation.ask_anew(authority, "aggregator") == 200
    assert await aggregation.ask_anew(None) == 401


async def test_a_config_map_that_lost_its_authority_is_an_error_and_the_last_one_stays(
    aggregation: Aggregation,
) -> None:
    authority = build_authority("front-proxy-ca")
    await aggregation.trust(authority)
    with pytest.raises(ValueError, match="--requestheader-client-ca-file"):
        await aggregation.trust()
    assert await aggregation.ask_anew(authority) == 200


def _connections(aggregation: Aggregation) -> list[object]:
    runner = aggregation.server._runner
    assert runner is not None
    assert runner.server is not None
    return list(runner.server.connections)
