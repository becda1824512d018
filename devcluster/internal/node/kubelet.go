// Package node runs one node: a real kubelet whose container runtime starts
// local processes (package process). It is the first process of a PID
// namespace of its own, so that its end is the end of everything on the node.
package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	noopoteltrace "go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/util/oom"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/mounts"
	"github.com/easel-dev/easel/devcluster/internal/process"
)

// NewCommand is `devcluster component kubelet --state-dir DIR --name NODE`.
func NewCommand() *cobra.Command {
	var stateDir, name string
	cmd := &cobra.Command{Use: "kubelet", RunE: func(cmd *cobra.Command, _ []string) error {
		cluster, err := config.Load(stateDir)
		if err != nil {
			return err
		}
		node, err := cluster.Node(name)
		if err != nil {
			return err
		}
		return run(cmd.Context(), cluster, node)
	}}
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "state directory of the cluster")
	cmd.Flags().StringVar(&name, "name", "", "node name")
	return cmd
}

func run(ctx context.Context, cluster *config.Config, node config.Node) error {
	if err := enterNamespaces(); err != nil {
		return err
	}
	root := filepath.Join(config.ShortStateDir, "nodes", node.Name)
	runtime, err := process.New(process.Options{
		Dir: root, PodNetwork: strings.TrimSuffix(node.PodCIDR(), ".0/24"), Gateway: config.PodGatewayIP, ImageMap: cluster.ImageMap(),
	})
	if err != nil {
		return fmt.Errorf("container runtime: %w", err)
	}
	go process.ReapOrphans(ctx)

	server, err := kubeletServer(cluster, node, root)
	if err != nil {
		return err
	}
	deps, err := dependencies(ctx, cluster, node, server)
	if err != nil {
		return err
	}
	deps.RemoteRuntimeService, deps.RemoteImageService = runtime, process.Images{Runtime: runtime}
	deps.CAdvisorInterface = &machine{Fake: cadvisortest.Fake{NodeName: node.Name}, root: root, runtime: runtime, started: time.Now()}
	deps.ContainerManager = newDevices(node.Resources)
	if err := kubeletapp.RunKubelet(ctx, server, deps); err != nil {
		return err
	}
	<-ctx.Done()
	return nil // the kernel ends the pods with this process
}

// enterNamespaces makes this node's mounts its own and shows its own processes in /proc.
func enterNamespaces() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("a node must be the first process of a PID namespace: it is started by the supervisor")
	}
	if err := mounts.Own(); err != nil {
		return err
	}
	// The kubelet links pod logs into this fixed directory; the host's own stays as it is.
	if _, err := os.Stat(legacyLogsDir); err == nil {
		if err := unix.Mount("tmpfs", legacyLogsDir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("tmpfs on %s: %w", legacyLogsDir, err)
		}
	}
	return nil
}

const legacyLogsDir = "/var/log/containers"

func kubeletServer(cluster *config.Config, node config.Node, root string) (*options.KubeletServer, error) {
	f := options.NewKubeletFlags()
	f.RootDirectory, f.CertDirectory = filepath.Join(root, "kubelet"), filepath.Join(root, "kubelet-pki")
	f.HostnameOverride, f.NodeIP = node.Name, node.IP()
	f.MinimumGCAge.Duration, f.MaxPerPodContainerCount, f.MaxContainerCount = time.Minute, 2, 100
	c, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	c.PodLogsDir = filepath.Join(root, "pod-logs")
	kubelet.ContainerLogsDir = filepath.Join(root, "container-logs")
	c.ContainerRuntimeEndpoint = "" // in process
	c.Address, c.Port, c.ReadOnlyPort, c.HealthzPort = node.IP(), 10250, 0, 0
	c.TLSCertFile = cluster.Path("pki", "kubelet-server-"+node.Name+".crt")
	c.TLSPrivateKeyFile = cluster.Path("pki", "kubelet-server-"+node.Name+".key")
	c.Authentication.Anonymous.Enabled = false
	c.Authentication.X509.ClientCAFile = cluster.Path("pki", "ca.crt")
	c.Authentication.Webhook.Enabled = true
	c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	c.ClusterDomain, c.ClusterDNS = config.ClusterDomain, []string{config.DNSIP}
	c.MaxPods, c.MaxOpenFiles, c.FailSwapOn = config.MaxPodsPerNode, openFilesLimit(), false
	c.NodeLeaseDurationSeconds = 20 // renewed every 5 s: a dead node is seen within --node-monitor-grace-period
	withoutControlGroups(c)
	return &options.KubeletServer{KubeletFlags: *f, KubeletConfiguration: *c}, nil
}

// openFilesLimit is what this process may have: raising it further is the machine's business.
func openFilesLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int64(min(limit.Max, 65536))
}

// withoutControlGroups switches off what needs cgroups, iptables or an image store.
func withoutControlGroups(c *kubeletconfig.KubeletConfiguration) {
	c.CgroupsPerQOS, c.EnforceNodeAllocatable, c.CPUCFSQuota = false, nil, false
	c.EvictionHard, c.LocalStorageCapacityIsolation = nil, false
	c.ImageGCHighThresholdPercent = 100 // 100 switches image garbage collection off
	c.EnableControllerAttachDetach, c.MakeIPTablesUtilChains = false, false
}

// dependencies are those of `kubelet`'s own main, less what the caller replaces. Not
// kubeletapp.Run: that insists on a container runtime behind a socket.
func dependencies(ctx context.Context, cluster *config.Config, node config.Node, server *options.KubeletServer) (*kubelet.Dependencies, error) {
	deps, err := kubeletapp.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, err
	}
	restConfig, err := clientcmd.BuildConfigFromFlags("", cluster.Path("kubeconfigs", "kubelet-"+node.Name))
	if err != nil {
		return nil, err
	}
	restConfig.QPS, restConfig.Burst, restConfig.UserAgent = 50, 100, "kubelet/devcluster"
	restConfig.ContentType = "application/vnd.kubernetes.protobuf"
	if err := addClients(deps, restConfig); err != nil {
		return nil, err
	}
	auth, reloadCA, err := kubeletapp.BuildAuth("", deps.KubeClient, server.KubeletConfiguration)
	if err != nil {
		return nil, err
	}
	reloadCA(ctx.Done())
	deps.Auth = auth
	if _, err := os.Stat("/dev/kmsg"); err != nil || os.Geteuid() != 0 {
		deps.Recorder = &record.FakeRecorder{} // else the OOM watcher reads the kernel's log
	}
	deps.OOMAdjuster = oom.NewFakeOOMAdjuster()
	deps.TracerProvider = noopoteltrace.NewTracerProvider()
	deps.PodStartupLatencyTracker = util.NewPodStartupLatencyTracker()
	deps.NodeStartupLatencyTracker = util.NewNodeStartupLatencyTracker(klog.FromContext(ctx))
	return deps, nil
}

func addClients(deps *kubelet.Dependencies, restConfig *rest.Config) error {
	client, err := clientset.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	beat := rest.CopyConfig(restConfig)
	beat.Timeout, beat.QPS = 10*time.Second, -1
	heartbeat, err := clientset.NewForConfig(beat)
	if err != nil {
		return err
	}
	deps.KubeClient, deps.HeartbeatClient, deps.EventClient = client, heartbeat, client.CoreV1()
	return nil
}
