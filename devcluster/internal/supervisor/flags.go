package supervisor

import (
	"fmt"
	"os"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/pki"
)

func etcdFlags(c *config.Config) []string {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return []string{
		"--name=devcluster", "--data-dir=" + c.Path("etcd"), "--unsafe-no-fsync", // a cluster that is thrown away
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=devcluster=" + peer,
		"--log-level=warn",
	}
}

func apiServerFlags(c *config.Config) []string {
	pem := func(name string) string { return c.Path("pki", name) }
	eviction := int(c.PodEvictionTimeout.Seconds())
	return []string{
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--bind-address=" + config.APIServerIP,
		"--advertise-address=" + config.APIServerIP, "--endpoint-reconciler-type=lease",
		"--tls-cert-file=" + pem("apiserver.crt"), "--tls-private-key-file=" + pem("apiserver.key"),
		"--client-ca-file=" + pem("ca.crt"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + config.ServiceCIDR, "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pem("service-account.crt"), "--service-account-signing-key-file=" + pem("service-account.key"),
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + pem("ca.crt"),
		"--kubelet-client-certificate=" + pem("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pem("apiserver-kubelet-client.key"),
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file=" + pem("front-proxy-ca.crt"), "--requestheader-allowed-names=" + pki.FrontProxyUser,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pem("front-proxy-client.crt"), "--proxy-client-key-file=" + pem("front-proxy-client.key"),
		fmt.Sprintf("--default-not-ready-toleration-seconds=%d", eviction),
		fmt.Sprintf("--default-unreachable-toleration-seconds=%d", eviction),
	}
}

func controllerManagerFlags(c *config.Config) []string {
	kubeconfig := c.Path("kubeconfigs", "controller-manager")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.Path("pki", "service-account.key"), "--root-ca-file=" + c.Path("pki", "ca.crt"),
		"--horizontal-pod-autoscaler-sync-period=" + c.HPASyncPeriod.String(),
		"--node-monitor-grace-period=" + c.NodeMonitorGracePeriod.String(), "--node-monitor-period=2s",
		// The default of 20 requests a second makes the start wait for 40 service accounts.
		"--kube-api-qps=100", "--kube-api-burst=200",
	}
}

func schedulerFlags(c *config.Config) []string {
	kubeconfig := c.Path("kubeconfigs", "scheduler")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false",
	}
}

// proxyFlags writes kube-proxy's configuration. One kube-proxy serves all nodes: they share a
// network namespace. Connection tracking limits stay as they are (0): they are the machine's.
func proxyFlags(c *config.Config) ([]string, error) {
	path := c.Path("kube-proxy.yaml")
	text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %q}
hostnameOverride: %q
clusterCIDR: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
`, c.Path("kubeconfigs", "kube-proxy"), c.Nodes[0].Name, config.PodCIDR)
	return []string{"--config=" + path}, os.WriteFile(path, []byte(text), 0o600)
}
