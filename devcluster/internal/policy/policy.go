// Package policy enforces NetworkPolicies: kube-router's own controller, unmodified, turns them into rules of the
// cluster's network namespace by iptables and ipset.
package policy

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// Programs that it calls, with their Debian packages.
var Programs = map[string]string{"iptables": "iptables", "iptables-save": "iptables", "iptables-restore": "iptables", "ipset": "ipset"}

// chain is there once rules are kept.
const chain = "KUBE-NWPLCY-DEFAULT"

// syncPeriod is for rules that somebody else took away; changes of the cluster are followed at once.
const syncPeriod = 30 * time.Second

// NewCommand is `devcluster component network-policies --state-dir DIR`.
func NewCommand() *cobra.Command {
	var stateDir string
	cmd := &cobra.Command{Use: "network-policies", RunE: func(cmd *cobra.Command, _ []string) error {
		cluster, err := config.Load(stateDir)
		if err != nil {
			return err
		}
		return run(cmd.Context(), cluster)
	}}
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "state directory of the cluster")
	return cmd
}

// IsEnforced returns an error until rules are kept in this process's network namespace.
func IsEnforced() error {
	if said, err := exec.Command("iptables", "--wait", "--list-rules", chain).CombinedOutput(); err != nil {
		return fmt.Errorf("no rules for NetworkPolicies: %w: %s", err, said)
	}
	return nil
}

func run(ctx context.Context, cluster *config.Config) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", cluster.Path("kubeconfigs", "supervisor"))
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	// The node whose network namespace it is in: nodes share one, so that any of them serves.
	node := cluster.Nodes[0]
	factory := informers.NewSharedInformerFactory(kube, 0)
	pods, namespaces := factory.Core().V1().Pods().Informer(), factory.Core().V1().Namespaces().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	if err := pods.SetTransform(onOneNode(node.IP())); err != nil {
		return err
	}
	settings := options.NewKubeRouterConfig()
	settings.EnableIPv4, settings.HostnameOverride = true, node.Name
	settings.ClusterIPCIDRs, settings.IPTablesSyncPeriod = []string{config.ServiceCIDR}, syncPeriod
	iptables, ipsets, err := netpol.NewIPTablesHandlers(settings)
	if err != nil {
		return err
	}
	controller, err := netpol.NewNetworkPolicyController(kube, settings, pods, policies, namespaces, &sync.Mutex{}, iptables, ipsets)
	if err != nil {
		return err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		pods: controller.PodEventHandler, policies: controller.NetworkPolicyEventHandler, namespaces: controller.NamespaceEventHandler,
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("%v were not listed before the end", kind)
		}
	}
	heartbeats, running := make(chan *healthcheck.ControllerHeartbeat), &sync.WaitGroup{}
	go func() {
		for range heartbeats { // it waits until each is read
		}
	}()
	running.Add(1)
	controller.Run(heartbeats, ctx.Done(), running)
	return nil
}

// onOneNode makes the pods of all nodes the controller's own: it keeps rules for those of its node, and here one process
// serves all nodes, as one kube-proxy does.
func onOneNode(ip string) cache.TransformFunc {
	return func(object any) (any, error) {
		if pod, ok := object.(*v1.Pod); ok && pod.Status.HostIP != "" {
			pod.Status.HostIP = ip
		}
		return object, nil
	}
}
