package supervisor

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/dns"
	"github.com/easel-dev/easel/devcluster/internal/metrics"
	"github.com/easel-dev/easel/devcluster/internal/policy"
	"github.com/easel-dev/easel/devcluster/internal/volume"
)

const (
	// phaseTimeout is generous: a busy CI machine takes minutes for what takes seconds here.
	phaseTimeout = 4 * time.Minute
	pollInterval = 100 * time.Millisecond
)

// startCluster starts the components in the order in which they need each other. Kubelets wait
// for the API server, so that the start-up's work isn't done twice on small machines.
func (s *Supervisor) startCluster(ctx context.Context) error {
	if err := s.startControlPlane(ctx); err != nil {
		return err
	}
	clients, err := s.newClients()
	if err != nil {
		return err
	}
	if err := s.startNodes(ctx, clients); err != nil {
		return err
	}
	if err := s.phase("cluster DNS", func() error { return s.startDNS(ctx, clients) }); err != nil {
		return err
	}
	if err := s.phase("volumes", func() error {
		return (&volume.Provisioner{Client: clients.kube, Dir: s.cluster.Path("volumes")}).Start(ctx)
	}); err != nil {
		return err
	}
	if err := s.phase("metrics API", func() error { return s.startMetrics(ctx, clients) }); err != nil || s.cluster.SimulatedNodes == 0 {
		return err
	}
	return s.phase("simulated nodes", func() error { return s.startSimulated(ctx, clients) })
}

// clients of the API server, with an administrator's rights.
type clients struct {
	config *rest.Config
	kube   kubernetes.Interface
	any    dynamic.Interface
}

func (s *Supervisor) newClients() (*clients, error) {
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.cluster.Path("kubeconfigs", "supervisor"))
	if err != nil {
		return nil, err
	}
	restConfig.QPS, restConfig.Burst, restConfig.UserAgent = 50, 100, "devcluster-supervisor"
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, err
	}
	dynamicClient, err := dynamic.NewForConfig(restConfig)
	return &clients{restConfig, kube, dynamicClient}, err
}

func (s *Supervisor) startControlPlane(ctx context.Context) error {
	c := s.cluster
	return s.phase("API server", func() error {
		if err := s.components.start("etcd", "etcd", 0, etcdFlags(c)...); err != nil {
			return err
		}
		if err := s.components.start("apiserver", "apiserver", 0, apiServerFlags(c)...); err != nil {
			return err
		}
		clients, err := s.newClients()
		if err != nil {
			return err
		}
		return s.wait(ctx, func() error {
			return clients.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
	})
}

func (s *Supervisor) startNodes(ctx context.Context, clients *clients) error {
	c := s.cluster
	proxy, err := proxyFlags(c)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name  string
		flags []string
	}{{"controller-manager", controllerManagerFlags(c)}, {"scheduler", schedulerFlags(c)}, {"kube-proxy", proxy}} {
		if err := s.components.start(part.name, part.name, 0, part.flags...); err != nil {
			return err
		}
	}
	err = s.phase("nodes", func() error {
		for _, node := range c.Nodes {
			if err := s.createNode(ctx, clients, node); err != nil {
				return fmt.Errorf("node %s: %w", node.Name, err)
			}
			if err := s.startKubelet(node.Name); err != nil {
				return err
			}
		}
		return s.wait(ctx, func() error { return usable(ctx, clients) })
	})
	if err != nil {
		return err
	}
	if err := s.phase("Services", func() error { return s.wait(ctx, canReachService) }); err != nil || !c.NetworkPolicies {
		return err
	}
	return s.phase("network policies", func() error {
		if err := s.components.start("network-policies", "network-policies", 0, "--state-dir="+c.StateDir); err != nil {
			return err
		}
		return s.wait(ctx, policy.IsEnforced)
	})
}

func (s *Supervisor) startKubelet(name string) error {
	if err := os.MkdirAll(s.cluster.Path("nodes", name), 0o755); err != nil {
		return err
	}
	return s.components.start(kubeletTitle(name), "kubelet", syscall.CLONE_NEWPID|syscall.CLONE_NEWNS,
		"--state-dir="+s.cluster.StateDir, "--name="+name)
}

func kubeletTitle(node string) string { return "kubelet-" + node }

// createNode makes the Node object, which its kubelet then adopts: a kubelet may not give itself
// a role or a pod range.
func (s *Supervisor) createNode(ctx context.Context, clients *clients, node config.Node) error {
	object := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: map[string]string{
			"kubernetes.io/hostname": node.Name, "node-role.kubernetes.io/worker": ""}},
		Spec: v1.NodeSpec{PodCIDR: node.PodCIDR(), PodCIDRs: []string{node.PodCIDR()}},
	}
	if node.HasGPU() {
		object.Labels[config.GPUResource+".present"] = "true"
		object.Spec.Taints = []v1.Taint{{Key: config.GPUResource, Value: "present", Effect: v1.TaintEffectNoSchedule}}
	}
	_, err := clients.kube.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// usable: every node is Ready, and pods can be created: they need their namespace's service account.
func usable(ctx context.Context, clients *clients) error {
	if _, err := clients.kube.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	nodes, err := clients.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if !isReady(node) {
			return fmt.Errorf("node %s is not Ready", node.Name)
		}
	}
	return nil
}

func isReady(node v1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

// canReachService goes through kube-proxy's rules.
func canReachService() error {
	conn, err := net.DialTimeout("tcp", config.KubernetesIP+":443", time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (s *Supervisor) startDNS(ctx context.Context, clients *clients) error {
	server, err := dns.Start(ctx, clients.kube, config.APIServerIP+":53", config.ClusterDomain)
	if err != nil {
		return err
	}
	if err := publish(ctx, clients, service{"kube-dns", config.DNSIP, []v1.ServicePort{
		{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: v1.ProtocolTCP, Port: 53}}}); err != nil {
		return err
	}
	return s.wait(ctx, func() error { return server.Check(config.DNSIP + ":53") })
}

func (s *Supervisor) startMetrics(ctx context.Context, clients *clients) error {
	port := v1.ServicePort{Name: "https", Protocol: v1.ProtocolTCP, Port: config.MetricsPort}
	if err := publish(ctx, clients, service{metrics.ServiceName, "", []v1.ServicePort{port}}); err != nil {
		return err
	}
	server := &metrics.Server{
		Kube: clients.kube, Config: clients.config, Address: fmt.Sprintf("%s:%d", config.APIServerIP, config.MetricsPort),
		CertFile: s.cluster.Path("pki", metrics.ServiceName+".crt"), KeyFile: s.cluster.Path("pki", metrics.ServiceName+".key"),
		FrontProxyCA: s.cluster.Path("pki", "front-proxy-ca.crt"), CA: s.cluster.Path("pki", "ca.crt"),
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	if err := server.Register(ctx, clients.any, config.MetricsPort); err != nil {
		return err
	}
	return s.wait(ctx, func() error { return metrics.Available(ctx, clients.any) })
}

// wait polls until the condition holds. It gives up when a component has ended.
func (s *Supervisor) wait(ctx context.Context, condition func() error) error {
	deadline := time.Now().Add(phaseTimeout)
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if ended := s.components.check(); ended != nil {
			return ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %s: %w", phaseTimeout, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}
