package supervisor

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// kwokMark is the annotation and the taint that kwok's documentation uses.
const kwokMark = "kwok.x-k8s.io/node"

func kwokFlags(c *config.Config) []string {
	return []string{
		"--config=" + c.Path("kwok.yaml"), "--kubeconfig=" + c.Path("kubeconfigs", "supervisor"),
		"--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=" + kwokMark + "=fake",
		"--cidr=" + config.SimulatedPodCIDR, "--node-ip=" + config.APIServerIP, "--node-port=0", "--node-lease-duration-seconds=40",
	}
}

// startSimulated makes nodes without a machine: kwok says that they are Ready and that their
// pods run.
func (s *Supervisor) startSimulated(ctx context.Context, clients *clients) error {
	if err := s.components.start("kwok", "kwok", 0, kwokFlags(s.cluster)...); err != nil {
		return err
	}
	for i := range s.cluster.SimulatedNodes {
		_, err := clients.kube.CoreV1().Nodes().Create(ctx, simulatedNode(fmt.Sprintf("simulated-%d", i)), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return s.wait(ctx, func() error { return usable(ctx, clients) })
}

func simulatedNode(name string) *v1.Node {
	resources := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("64"), v1.ResourceMemory: resource.MustParse("512Gi"),
		v1.ResourcePods: resource.MustParse("250"), config.GPUResource: resource.MustParse("8"),
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{kwokMark: "fake"}, Labels: map[string]string{
			"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"node-role.kubernetes.io/worker": "", config.GPUResource + ".present": "true"}},
		Spec:   v1.NodeSpec{Taints: []v1.Taint{{Key: kwokMark, Value: "fake", Effect: v1.TaintEffectNoSchedule}}},
		Status: v1.NodeStatus{Capacity: resources, Allocatable: resources},
	}
}
