"""What docs/platform/redis.md says to do with the chart, on a real API server: a volume, a Redis with replicas."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.cluster import devcluster_binary
from tests.chart.test_chart import CHART
from tests.support.api_server import ApiServers

pytestmark = pytest.mark.cluster

NAMESPACE = "easel-system"
EXAMPLES = CHART.parents[1] / "examples/redis"


class Release:
    """Of the chart, without controllers: what is written is there, and nothing runs."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._tools = Path(devcluster_binary()).parent

    def run(self, tool: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._kubeconfig.parent)}
        command = [str(self._tools / tool), *words, "-n", NAMESPACE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def upgrade(self, *settings: str) -> str:
        """What Helm complains of; empty where it succeeds."""
        values = [word for setting in settings for word in ("--set", setting)]
        options = ("--install", "--create-namespace", "--reset-values")
        done = self.run("helm", "upgrade", "easel", str(CHART), *options, *values)
        assert done.returncode == 0 or done.stderr
        return done.stderr if done.returncode else ""

    def delete_stateful_set(self) -> None:
        """As the docs say; here nobody but this test does what the garbage collector does then."""
        words = ("statefulset", "easel-redis")
        for done in (
            self.run("kubectl", "delete", *words, "--cascade=orphan", "--wait=false"),
            self.run("kubectl", "patch", *words, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'),
        ):
            assert done.returncode == 0, done.stderr

    def read_claim(self) -> tuple[str, str | None]:
        """Size and class."""
        done = self.run("kubectl", "get", "statefulset", "easel-redis", "-o", "json")
        (claim,) = json.loads(done.stdout)["spec"]["volumeClaimTemplates"]
        return claim["spec"]["resources"]["requests"]["storage"], claim["spec"].get("storageClassName")


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    with ApiServers() as servers:
        made = Release(servers.write_kubeconfig(servers.start("1.37")))
        assert made.upgrade() == ""
        yield made


def test_a_larger_volume_is_refused_with_what_to_do_and_taken_once_that_was_done(release: Release) -> None:
    before, _ = release.read_claim()
    assert release.upgrade("redis.persistence.size=8192Mi") == "", "another word for the same"
    refusal = release.upgrade("redis.persistence.size=16Gi")
    assert f"redis.persistence.size is 16Gi, and StatefulSet easel-redis was made with {before}" in refusal
    assert "docs/platform/redis.md says how its volume grows" in refusal
    release.delete_stateful_set()
    assert release.upgrade("redis.persistence.size=16Gi") == ""
    assert release.read_claim() == ("16Gi", None)
    release.delete_stateful_set()
    assert release.upgrade() == ""


def test_another_class_is_refused_with_what_to_do_and_taken_once_that_was_done(release: Release) -> None:
    refusal = release.upgrade("redis.persistence.storageClassName=fast")
    assert 'redis.persistence.storageClassName is "fast", and StatefulSet easel-redis was made with null' in refusal
    release.delete_stateful_set()
    assert release.upgrade("redis.persistence.storageClassName=fast") == ""
    assert release.read_claim() == ("8Gi", "fast")
    assert release.upgrade("redis.persistence.storageClassName=fast", "redis.maxMemory=2000mb") == ""
    assert "redis.persistence.enabled is false" in release.upgrade("redis.persistence.enabled=false")
    release.delete_stateful_set()
    assert release.upgrade() == ""


def test_an_api_server_takes_the_example_of_a_restore(release: Release) -> None:
    example = EXAMPLES / "restore.yaml"
    release.run("kubectl", "create", "serviceaccount", "default")  # which a controller would make
    done = release.run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", str(example))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(yaml.safe_load_all(example.read_text())))


def test_what_is_queued_in_one_server_is_not_left_behind_by_going_to_several(release: Release) -> None:
    assert release.upgrade() == ""
    refusal = release.upgrade("redis.replicas=3")
    assert "redis.replicas is 3, and what is queued is on the volumes of StatefulSet easel-redis" in refusal
    release.delete_stateful_set()
    assert release.upgrade("redis.replicas=3") == ""
    assert "on the volumes of StatefulSet easel-redis-replicated" in release.upgrade()
    assert "was made with 3 servers, by which its Sentinels count" in release.upgrade("redis.replicas=5")


def test_servers_and_sentinels_are_where_the_operator_and_their_scripts_look(release: Release) -> None:
    done = release.run("helm", "template", "easel", str(CHART), "--set", "redis.replicas=3")
    rendered = [each for each in yaml.safe_load_all(done.stdout) if each]
    (redis,) = (each["spec"] for each in rendered if each["kind"] == "StatefulSet")
    (operator,) = (each["spec"] for each in rendered if each["kind"] == "Deployment")
    told = {each["name"]: each.get("value") for each in operator["template"]["spec"]["containers"][0]["env"]}
    services = {each["metadata"]["name"] for each in rendered if each["kind"] == "Service"}
    assert redis["serviceName"] in services
    hosts = [
        f"easel-redis-replicated-{number}.{redis['serviceName']}.{NAMESPACE}.svc" for number in range(redis["replicas"])
    ]
    assert told["EASEL_REDIS_SERVERS"] == ",".join(f"{host}:6379" for host in hosts)
    assert told["EASEL_REDIS_SENTINELS"] == ",".join(f"{host}:26379" for host in hosts)
    for container, port in zip(redis["template"]["spec"]["containers"], (6379, 26379), strict=True):
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment["HOSTS"].split() == hosts
        assert environment["SELF"] == f"$(POD_NAME).{redis['serviceName']}.{NAMESPACE}.svc"
        assert container["ports"][0]["containerPort"] == port
