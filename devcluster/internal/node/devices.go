package node

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

// devices is a container manager that reports extended resources as a device plugin would:
// what a node says about itself, so that the counts survive a restart of its kubelet.
type devices struct {
	cm.ContainerManager
	capacity v1.ResourceList
}

func newDevices(counts map[string]int64) *devices {
	d := &devices{ContainerManager: cm.NewStubContainerManager(), capacity: v1.ResourceList{}}
	for name, count := range counts {
		d.capacity[v1.ResourceName(name)] = *resource.NewQuantity(count, resource.DecimalSI)
	}
	return d
}

// GetDevicePluginResourceCapacity returns capacity, allocatable and the names that are gone.
func (d *devices) GetDevicePluginResourceCapacity(klog.Logger) (v1.ResourceList, v1.ResourceList, []string) {
	return d.capacity.DeepCopy(), d.capacity.DeepCopy(), nil
}
