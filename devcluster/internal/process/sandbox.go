package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is what the containers of a pod share.
type sandbox struct {
	id, ip, handler string
	config          *api.PodSandboxConfig
	created         int64
	ready           bool
	network         *os.File // its network namespace; nil for pods in the node's network
	resolvConf      string
}

// RunPodSandbox implements the CRI.
func (r *Runtime) RunPodSandbox(_ context.Context, config *api.PodSandboxConfig, handler string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &sandbox{id: r.newID("s"), config: config, created: time.Now().UnixNano(), ready: true, handler: handler}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != api.NamespaceMode_NODE {
		ip, err := r.freeIP()
		if err != nil {
			return "", err
		}
		s.ip = ip
		if s.network, err = newPodNetwork(linkName(ip), ip, r.options.Gateway); err != nil {
			return "", fmt.Errorf("network of pod %s/%s: %w", config.Metadata.Namespace, config.Metadata.Name, err)
		}
	}
	if err := r.writeResolvConf(s); err != nil {
		return "", err
	}
	if config.LogDirectory != "" {
		if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
			return "", err
		}
	}
	r.sandboxes[s.id] = s
	return s.id, nil
}

// linkName is unique in the cluster: all nodes share one network namespace.
func linkName(ip string) string {
	octets := strings.Split(ip, ".")
	return fmt.Sprintf("pod-%s-%s", octets[2], octets[3])
}

// freeIP needs r.mu. It goes round the range, so that an address isn't used again at once.
func (r *Runtime) freeIP() (string, error) {
	used := map[string]bool{}
	for _, s := range r.sandboxes {
		if s.ready {
			used[s.ip] = true
		}
	}
	for range 253 {
		if r.lastOctet++; r.lastOctet > 254 {
			r.lastOctet = 2
		}
		if ip := fmt.Sprintf("%s.%d", r.options.PodNetwork, r.lastOctet); !used[ip] {
			return ip, nil
		}
	}
	return "", fmt.Errorf("no address is free in %s.0/24", r.options.PodNetwork)
}

func (r *Runtime) writeResolvConf(s *sandbox) error {
	dns := s.config.GetDnsConfig()
	var text strings.Builder
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if searches := dns.GetSearches(); len(searches) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(searches, " "))
	}
	if options := dns.GetOptions(); len(options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(options, " "))
	}
	if text.Len() == 0 {
		return nil
	}
	s.resolvConf = filepath.Join(r.sandboxDir(), s.id+".resolv.conf")
	return os.WriteFile(s.resolvConf, []byte(text.String()), 0o644)
}

// StopPodSandbox implements the CRI.
func (r *Runtime) StopPodSandbox(ctx context.Context, id string) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	var live []string
	for _, c := range r.containers {
		if c.sandbox == s && c.state == api.ContainerState_CONTAINER_RUNNING {
			live = append(live, c.id)
		}
	}
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	for _, c := range live {
		if err := r.StopContainer(ctx, c, 0); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.ready = false
	if s.network != nil {
		_ = s.network.Close() // the last reference: the kernel removes the namespace and the link
		s.network = nil
	}
	return nil
}

// RemovePodSandbox implements the CRI.
func (r *Runtime) RemovePodSandbox(ctx context.Context, id string) error {
	if err := r.StopPodSandbox(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil && s.resolvConf != "" {
		_ = os.Remove(s.resolvConf)
	}
	for cid, c := range r.containers {
		if c.sandbox.id == id {
			delete(r.containers, cid)
		}
	}
	delete(r.sandboxes, id)
	return nil
}

func (s *sandbox) state() api.PodSandboxState {
	if s.ready {
		return api.PodSandboxState_SANDBOX_READY
	}
	return api.PodSandboxState_SANDBOX_NOTREADY
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*api.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "no sandbox %s", id)
	}
	return &api.PodSandboxStatusResponse{Status: &api.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created,
		Network: &api.PodSandboxNetworkStatus{Ip: s.ip}, Labels: s.config.Labels, Annotations: s.config.Annotations,
		RuntimeHandler: s.handler,
		Linux: &api.LinuxPodSandboxStatus{Namespaces: &api.Namespace{
			Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}}, nil
}

// ListPodSandbox implements the CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, filter *api.PodSandboxFilter) ([]*api.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*api.PodSandbox
	for _, s := range r.sandboxes {
		if filter != nil && (filter.Id != "" && filter.Id != s.id ||
			filter.State != nil && filter.State.State != s.state() || !matches(s.config.Labels, filter.LabelSelector)) {
			continue
		}
		out = append(out, &api.PodSandbox{Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created,
			Labels: s.config.Labels, Annotations: s.config.Annotations, RuntimeHandler: s.handler})
	}
	return out, nil
}

func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
