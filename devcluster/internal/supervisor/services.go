package supervisor

import (
	"context"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// service is a Service in kube-system whose only endpoint is this process.
type service struct {
	name, clusterIP string
	ports           []v1.ServicePort
}

func publish(ctx context.Context, clients *clients, s service) error {
	meta := metav1.ObjectMeta{Name: s.name, Namespace: metav1.NamespaceSystem, Labels: map[string]string{
		"k8s-app": s.name, "kubernetes.io/cluster-service": "true"}}
	_, err := clients.kube.CoreV1().Services(meta.Namespace).Create(ctx, &v1.Service{ObjectMeta: meta,
		Spec: v1.ServiceSpec{ClusterIP: s.clusterIP, Ports: s.ports}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	slice := &discovery.EndpointSlice{ObjectMeta: meta, AddressType: discovery.AddressTypeIPv4,
		Endpoints: []discovery.Endpoint{{Addresses: []string{config.APIServerIP}, Conditions: discovery.EndpointConditions{Ready: ptr.To(true)}}}}
	slice.Labels = map[string]string{discovery.LabelServiceName: s.name, discovery.LabelManagedBy: "devcluster"}
	for _, port := range s.ports {
		slice.Ports = append(slice.Ports, discovery.EndpointPort{Name: &port.Name, Protocol: &port.Protocol, Port: &port.Port})
	}
	_, err = clients.kube.DiscoveryV1().EndpointSlices(meta.Namespace).Create(ctx, slice, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
