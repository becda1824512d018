package metrics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	metricsapi "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	group        = "metrics.k8s.io"
	groupVersion = group + "/v1beta1"
	root         = "/apis/" + groupVersion
)

var everything = metav1.ListOptions{}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+root, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, resources()) })
	mux.HandleFunc("GET "+root+"/nodes", s.listNodes)
	mux.HandleFunc("GET "+root+"/nodes/{name}", s.getNode)
	mux.HandleFunc("GET "+root+"/pods", s.listPods)
	mux.HandleFunc("GET "+root+"/namespaces/{namespace}/pods", s.listPods)
	mux.HandleFunc("GET "+root+"/namespaces/{namespace}/pods/{name}", s.getPod)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { notFound(w, r.URL.Path) })
	return mux
}

func resources() *metav1.APIResourceList {
	verbs := metav1.Verbs{"get", "list"}
	return &metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: groupVersion,
		APIResources: []metav1.APIResource{
			{Name: "nodes", Kind: "NodeMetrics", Verbs: verbs},
			{Name: "pods", Kind: "PodMetrics", Verbs: verbs, Namespaced: true},
		},
	}
}

func (s *Server) listNodes(w http.ResponseWriter, r *http.Request) {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		badRequest(w, err)
		return
	}
	nodes, _ := s.nodes.List(selector)
	list := &metricsapi.NodeMetricsList{TypeMeta: kind("NodeMetricsList"), Items: []metricsapi.NodeMetrics{}}
	for _, node := range nodes {
		if item, ok := s.nodeMetrics(node); ok {
			list.Items = append(list.Items, item)
		}
	}
	slices.SortFunc(list.Items, func(a, b metricsapi.NodeMetrics) int { return strings.Compare(a.Name, b.Name) })
	reply(w, http.StatusOK, list)
}

func (s *Server) getNode(w http.ResponseWriter, r *http.Request) {
	if node, err := s.nodes.Get(r.PathValue("name")); err == nil {
		if item, ok := s.nodeMetrics(node); ok {
			reply(w, http.StatusOK, item)
			return
		}
	}
	notFound(w, "nodes "+r.PathValue("name"))
}

func (s *Server) nodeMetrics(node *v1.Node) (metricsapi.NodeMetrics, bool) {
	used, ok := s.history.usage(subject{node: node.Name})
	return metricsapi.NodeMetrics{
		TypeMeta: kind("NodeMetrics"), ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels},
		Timestamp: metav1.NewTime(used.at), Window: metav1.Duration{Duration: used.window}, Usage: used.resources(),
	}, ok
}

func (s *Server) listPods(w http.ResponseWriter, r *http.Request) {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		badRequest(w, err)
		return
	}
	pods, _ := s.pods.Pods(r.PathValue("namespace")).List(selector) // no namespace: all of them
	list := &metricsapi.PodMetricsList{TypeMeta: kind("PodMetricsList"), Items: []metricsapi.PodMetrics{}}
	for _, pod := range pods {
		if item, ok := s.podMetrics(pod); ok {
			list.Items = append(list.Items, item)
		}
	}
	slices.SortFunc(list.Items, func(a, b metricsapi.PodMetrics) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	reply(w, http.StatusOK, list)
}

func (s *Server) getPod(w http.ResponseWriter, r *http.Request) {
	if pod, err := s.pods.Pods(r.PathValue("namespace")).Get(r.PathValue("name")); err == nil {
		if item, ok := s.podMetrics(pod); ok {
			reply(w, http.StatusOK, item)
			return
		}
	}
	notFound(w, "pods "+r.PathValue("namespace")+"/"+r.PathValue("name"))
}

// podMetrics is false unless every running container has been measured: a partial sum would look
// like a low one to an autoscaler.
func (s *Server) podMetrics(pod *v1.Pod) (metricsapi.PodMetrics, bool) {
	out := metricsapi.PodMetrics{TypeMeta: kind("PodMetrics"),
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: pod.CreationTimestamp}}
	for _, container := range pod.Status.ContainerStatuses {
		if container.State.Running == nil {
			continue
		}
		used, ok := s.history.usage(subject{pod.Spec.NodeName, pod.Namespace, pod.Name, container.Name})
		if !ok {
			return out, false
		}
		out.Timestamp, out.Window = metav1.NewTime(used.at), metav1.Duration{Duration: used.window}
		out.Containers = append(out.Containers, metricsapi.ContainerMetrics{Name: container.Name, Usage: used.resources()})
	}
	return out, len(out.Containers) > 0
}

func (u usage) resources() v1.ResourceList {
	return v1.ResourceList{
		v1.ResourceCPU:    *resource.NewScaledQuantity(u.cpuNanoPerSec, resource.Nano),
		v1.ResourceMemory: *resource.NewQuantity(u.workingSetBytes, resource.BinarySI),
	}
}

func kind(name string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: name, APIVersion: groupVersion}
}

func reply(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func notFound(w http.ResponseWriter, what string) {
	failure(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("no metrics for %s", what))
}

func badRequest(w http.ResponseWriter, err error) {
	failure(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
}

func failure(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	reply(w, code, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}
