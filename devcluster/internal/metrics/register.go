package metrics

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

var (
	apiServices  = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	clusterRoles = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}
)

const apiServiceName = "v1beta1." + group

// Register tells the API server about this one, and lets users with the role `view` read it, as
// metrics-server's manifests do.
func (s *Server) Register(ctx context.Context, client dynamic.Interface, port int64) error {
	ca, err := os.ReadFile(s.CA)
	if err != nil {
		return err
	}
	type object = map[string]any
	type list = []any
	apiService := object{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": object{"name": apiServiceName},
		"spec": object{
			"group": group, "version": "v1beta1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"service":  object{"name": ServiceName, "namespace": metav1.NamespaceSystem, "port": port},
			"caBundle": base64.StdEncoding.EncodeToString(ca),
		},
	}
	role := object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
		"metadata": object{"name": "system:aggregated-metrics-reader", "labels": object{
			"rbac.authorization.k8s.io/aggregate-to-view": "true", "rbac.authorization.k8s.io/aggregate-to-edit": "true",
			"rbac.authorization.k8s.io/aggregate-to-admin": "true"}},
		"rules": list{object{"apiGroups": list{group}, "resources": list{"pods", "nodes"}, "verbs": list{"get", "list", "watch"}}},
	}
	for resource, content := range map[schema.GroupVersionResource]object{apiServices: apiService, clusterRoles: role} {
		_, err := client.Resource(resource).Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("%s: %w", resource.Resource, err)
		}
	}
	return nil
}

// Available returns nil when the API server can reach this one.
func Available(ctx context.Context, client dynamic.Interface) error {
	object, err := client.Resource(apiServices).Get(ctx, apiServiceName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] == "Available" {
			if condition["status"] == "True" {
				return nil
			}
			return fmt.Errorf("the APIService is not available: %v", condition["message"])
		}
	}
	return fmt.Errorf("the APIService has no condition yet")
}
