// Package process is a CRI runtime whose containers are processes of this
// machine: a pod is a network namespace, a container a process tree with a
// mount namespace of its own, an image an entry of the image map. It runs
// inside the kubelet's process; what it starts dies with that process, since
// both live in one PID namespace.
package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// Options are a runtime's fixed settings.
type Options struct {
	Dir        string // working files of this node
	PodNetwork string // the first three octets of the node's pod range: 10.244.1
	Gateway    string // the machine's address on every pod's link
	ImageMap   string // path of the image map; see package image
}

// Runtime implements the CRI's runtime service.
type Runtime struct {
	internalapi.RuntimeService // nil: the calls that the kubelet does not make here

	options    Options
	mu         sync.Mutex // guards everything below, and the fields of sandboxes and containers
	sandboxes  map[string]*sandbox
	containers map[string]*container
	lastOctet  int
	sequence   int
	prefix     string // makes ids unique over restarts of the kubelet
	stream     streaming.Server
	usage      usageTracker
}

// New makes a runtime with no sandboxes.
func New(options Options) (*Runtime, error) {
	r := &Runtime{
		options: options, sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		lastOctet: 1, prefix: strconv.FormatInt(time.Now().UnixNano(), 36),
	}
	for _, dir := range []string{r.stageDir(), r.scratchDir(), r.sandboxDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return r, r.startStreaming()
}

func (r *Runtime) stageDir() string   { return filepath.Join(r.options.Dir, "stage") }
func (r *Runtime) scratchDir() string { return filepath.Join(r.options.Dir, "scratch") }
func (r *Runtime) sandboxDir() string { return filepath.Join(r.options.Dir, "sandboxes") }

// newID needs r.mu.
func (r *Runtime) newID(kind string) string {
	r.sequence++
	return fmt.Sprintf("%s%s%06d", kind, r.prefix, r.sequence)
}

// Version implements the CRI.
func (r *Runtime) Version(context.Context, string) (*api.VersionResponse, error) {
	return &api.VersionResponse{Version: "0.1.0", RuntimeName: "process", RuntimeVersion: "0.1.0", RuntimeApiVersion: "v1"}, nil
}

// Status implements the CRI: this runtime is always ready.
func (r *Runtime) Status(context.Context, bool) (*api.StatusResponse, error) {
	return &api.StatusResponse{
		Status: &api.RuntimeStatus{Conditions: []*api.RuntimeCondition{
			{Type: api.RuntimeReady, Status: true}, {Type: api.NetworkReady, Status: true}}},
		RuntimeHandlers: []*api.RuntimeHandler{{Name: "", Features: &api.RuntimeHandlerFeatures{}}},
		Features:        &api.RuntimeFeatures{SupplementalGroupsPolicy: false},
	}, nil
}

// RuntimeConfig implements the CRI.
func (r *Runtime) RuntimeConfig(context.Context) (*api.RuntimeConfigResponse, error) {
	return &api.RuntimeConfigResponse{}, nil
}

// UpdateRuntimeConfig ignores the node's pod range: it is known from the start.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *api.RuntimeConfig) error { return nil }

// UpdateContainerResources does nothing: limits aren't enforced.
func (r *Runtime) UpdateContainerResources(context.Context, string, *api.ContainerResources) error {
	return nil
}

// UpdatePodSandboxResources does nothing: limits aren't enforced.
func (r *Runtime) UpdatePodSandboxResources(context.Context, *api.UpdatePodSandboxResourcesRequest) (*api.UpdatePodSandboxResourcesResponse, error) {
	return &api.UpdatePodSandboxResourcesResponse{}, nil
}

// Close implements the CRI.
func (r *Runtime) Close(context.Context) error { return nil }
