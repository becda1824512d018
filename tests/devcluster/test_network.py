"""Names, Services, and who may speak to whom."""

import socket
import ssl
from typing import Any

import pytest
import yaml

from tests.devcluster.cluster import Cluster, in_namespace, pod

pytestmark = pytest.mark.cluster

WEB = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    spec = {"selector": {"app": "web"}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def test_names_of_services(cluster: Cluster, namespace: str) -> None:
    web = pod("web", "python3", "-c", WEB, hostname="web-0", subdomain="headless")
    web["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    for manifest in (web, service("web"), service("headless", clusterIP="None")):
        cluster.apply(in_namespace(namespace, manifest))
    cluster.wait_ready("web", namespace)
    pod_ip = cluster.get("pod", "web", "-n", namespace)["status"]["podIP"]
    cluster_ip = cluster.get("service", "web", "-n", namespace)["spec"]["clusterIP"]
    code = f"""
import socket, time, urllib.request
def resolve(name):
    deadline = time.monotonic() + 20
    while True:
        try:
            return sorted(set(a[4][0] for a in socket.getaddrinfo(name, 80, socket.AF_INET)))
        except socket.gaierror:
            if time.monotonic() > deadline:
                return []
            time.sleep(0.1)
namespace = "{namespace}"
assert resolve("web") == ["{cluster_ip}"], resolve("web")
assert resolve(f"web.{{namespace}}.svc.cluster.local") == ["{cluster_ip}"]
assert resolve("headless") == ["{pod_ip}"], resolve("headless")
assert resolve("web-0.headless") == ["{pod_ip}"]
assert resolve("kubernetes.default") == ["10.96.0.1"]
try:
    socket.getaddrinfo("absent", 80)
except socket.gaierror as error:
    assert error.errno == socket.EAI_NONAME, error
else:
    raise SystemExit("a name that doesn't exist was resolved")
for name in ("web", "headless:8080"):
    assert urllib.request.urlopen(f"http://{{name}}/", timeout=5).status == 200
print("resolved")
"""
    cluster.apply(in_namespace(namespace, pod("client", "python3", "-c", code)))
    assert cluster.wait_succeeded("client", namespace).strip() == "resolved"


def test_a_pod_verifies_the_api_server_by_its_own_ca(cluster: Cluster, namespace: str) -> None:
    code = """
import json, ssl, urllib.request
base = "/var/run/secrets/kubernetes.io/serviceaccount/"
headers = {"Authorization": "Bearer " + open(base + "token").read()}
request = urllib.request.Request("https://kubernetes.default.svc/apis", headers=headers)
context = ssl.create_default_context(cafile=base + "ca.crt")
print(json.load(urllib.request.urlopen(request, context=context, timeout=10))["kind"])
"""
    cluster.apply(in_namespace(namespace, pod("client", "python3", "-c", code)))
    assert cluster.wait_succeeded("client", namespace).strip() == "APIGroupList"


def test_the_kubeconfig_verifies_the_server(cluster: Cluster) -> None:
    path = cluster.state_dir / "kubeconfig"
    entry = yaml.safe_load(path.read_text())["clusters"][0]["cluster"]
    assert entry["certificate-authority-data"]
    assert "insecure-skip-tls-verify" not in entry
    assert path.stat().st_mode & 0o777 == 0o600
    host, port = entry["server"].removeprefix("https://").split(":")
    with pytest.raises(ssl.SSLCertVerificationError):  # by the system's authorities it is a stranger
        import_certificate(host, int(port))


def import_certificate(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=10) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def test_aggregated_api_servers_can_know_the_aggregator(cluster: Cluster) -> None:
    data = cluster.get("configmap", "extension-apiserver-authentication", "-n", "kube-system")["data"]
    assert data["requestheader-client-ca-file"].startswith("-----BEGIN CERTIFICATE-----")
    assert data["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert data["requestheader-client-ca-file"] != data["client-ca-file"]


def test_kubelets_refuse_strangers(cluster: Cluster) -> None:
    node = cluster.get("node", "cpu-0")["status"]["addresses"][0]["address"]
    done = cluster.run(
        *["exec", "--state-dir", str(cluster.state_dir), "--", "curl", "--insecure", "--silent"],
        *["--output", "/dev/null", "--write-out", "%{http_code}", f"https://{node}:10250/pods"],
    )
    assert done.stdout == "401"
