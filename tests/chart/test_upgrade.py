"""Upgrades from the chart before, and renders that are applied again, on real API servers: what was made once stays."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.redis.password_keeper import PasswordKeeper, RedisSource
from kubernetes.aio.client import Configuration

from demo.cluster import devcluster_binary
from tests.support.api_server import ApiServers

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[2] / "helm/easel"
BEFORE = Path(__file__).resolve().parent / "before"
NAMESPACE = "easel-system"
# Ways of installing, each on an API server of its own, which acts as this release.
WAYS = {"helm upgrade": "1.37", "template | apply": "1.36", "template | apply --server-side": "1.35"}


class Site:
    """A real API server, and a way of installing charts there."""

    def __init__(self, configuration: Configuration, kubeconfig: Path, way: str) -> None:
        self.configuration = configuration
        self._kubeconfig = kubeconfig
        self._tools = Path(devcluster_binary()).parent
        self._way = way

    def run(self, *words: str, stdin: str | None = None) -> str:
        tool, *rest = words
        command = [str(self._tools / tool), *rest]
        environment = {"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._kubeconfig.parent)}
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def install(self, chart: Path) -> None:
        """Once more, if it is there."""
        if self._way == "helm upgrade":
            self.run("helm", "upgrade", "--install", "easel", str(chart), "-n", NAMESPACE, "--create-namespace")
            return
        rendered = self.run("helm", "template", "easel", str(chart), "-n", NAMESPACE)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        options = self._way.partition("apply")[2].split()
        self.run("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))
        if not options:  # a CRD is larger than the annotation that such an apply writes
            rendered = "\n---\n".join(part for part in rendered.split("\n---\n") if "CustomResourceDef" not in part)
        self.run("kubectl", "apply", *options, "-f", "-", stdin=rendered)

    def uninstall(self) -> None:
        if self._way == "helm upgrade":
            self.run("helm", "uninstall", "easel", "-n", NAMESPACE, "--no-hooks")  # no controller makes pods here
        else:
            self.run("kubectl", "delete", "secret", "easel-redis", "-n", NAMESPACE)

    def read_secret(self) -> dict[str, str]:
        """What the Secret of Redis has."""
        secret: dict[str, Any] = json.loads(
            self.run("kubectl", "get", "secret", "easel-redis", "-n", NAMESPACE, "-o", "json")
        )
        return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}

    def look(self) -> None:
        """The operator looks after the password, whether Redis is there or not."""

        async def look() -> None:
            client = KubernetesClient(self.configuration)
            source = RedisSource(NAMESPACE, "easel-redis", servers=("127.0.0.1:1",))
            keeper = PasswordKeeper(client, source, find_served=_find_none, clock=lambda: datetime.now(UTC))
            assert await keeper.look() is not None
            await client.close()

        asyncio.run(look())


async def _find_none() -> str | None:
    return None


@pytest.fixture(scope="module")
def servers() -> Iterator[ApiServers]:
    with ApiServers() as started:
        yield started


@pytest.fixture(scope="module", params=WAYS)
def installed_by(request: pytest.FixtureRequest, servers: ApiServers) -> Site:
    api_server = servers.start(WAYS[request.param])
    return Site(api_server, servers.write_kubeconfig(api_server), request.param)


@pytest.fixture
def site(installed_by: Site) -> Iterator[Site]:
    yield installed_by
    installed_by.uninstall()


def test_an_upgrade_from_the_chart_before_keeps_redis_password(site: Site) -> None:
    site.install(BEFORE)
    password = site.read_secret()["password"]
    site.install(CHART)
    assert site.read_secret()["password"] == password
    site.look()
    assert site.read_secret()["password"] == password
    assert "users.conf" in site.read_secret()


def test_a_chart_that_is_applied_again_leaves_the_password_that_the_operator_keeps(site: Site) -> None:
    site.install(CHART)
    assert site.read_secret() == {}, "what is rendered has no password"
    site.look()
    kept = site.read_secret()
    site.install(CHART)
    assert site.read_secret() == kept
