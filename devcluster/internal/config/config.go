// Package config holds what a cluster is made of: its nodes, addresses, options
// and the layout of its state directory. It is plain data and file paths.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Addresses inside the cluster's own network namespace.
const (
	APIServerIP      = "192.168.77.1"
	APIServerURL     = "https://192.168.77.1:6443"
	MetricsPort      = 4443
	ServiceCIDR      = "10.96.0.0/16"
	KubernetesIP     = "10.96.0.1"
	DNSIP            = "10.96.0.10"
	PodCIDR          = "10.244.0.0/16"
	SimulatedPodCIDR = "10.248.0.0/16" // of pods that don't exist
	PodGatewayIP     = "10.244.0.1"
	ClusterDomain    = "cluster.local"
	firstNodeOctet   = 10
	MaxNodes         = 200
	MaxPodsPerNode   = 200
	marker           = ".easel-devcluster"
	markerText       = "This directory belongs to an embedded cluster; `devcluster down` removes it.\n"
	maxCountPerName  = 1 << 20
)

// ShortStateDir is the state directory's second name, inside the cluster's mount namespace only.
const ShortStateDir = "/run/devcluster"

// Node is one kubelet.
type Node struct {
	Name      string           `json:"name"`
	Number    int              `json:"number"` // from 1
	Resources map[string]int64 `json:"resources,omitempty"`
}

// IP is the node's address.
func (n Node) IP() string { return fmt.Sprintf("192.168.77.%d", firstNodeOctet+n.Number) }

// PodCIDR is the range of the node's pods.
func (n Node) PodCIDR() string { return fmt.Sprintf("10.244.%d.0/24", n.Number) }

// HasGPU says whether the node has NVIDIA GPUs, for the label and taint that GPU operators set.
func (n Node) HasGPU() bool { return n.Resources[GPUResource] > 0 }

// GPUResource is the extended resource of NVIDIA's device plugin.
const GPUResource = "nvidia.com/gpu"

// Config is a cluster.
type Config struct {
	StateDir               string        `json:"stateDir"`
	HostAddress            string        `json:"hostAddress"` // where the host reaches the API server
	Nodes                  []Node        `json:"nodes"`
	SimulatedNodes         int           `json:"simulatedNodes"`
	NetworkPolicies        bool          `json:"networkPolicies"`      // enforced
	ImagesFile             string        `json:"imagesFile,omitempty"` // as the user named it; for messages
	HPASyncPeriod          time.Duration `json:"hpaSyncPeriod"`
	NodeMonitorGracePeriod time.Duration `json:"nodeMonitorGracePeriod"`
	PodEvictionTimeout     time.Duration `json:"podEvictionTimeout"`
}

// Path is a path below the state directory.
func (c *Config) Path(parts ...string) string {
	return filepath.Join(append([]string{c.StateDir}, parts...)...)
}

// Kubeconfig is the file for clients outside the cluster.
func (c *Config) Kubeconfig() string { return c.Path("kubeconfig") }

// ImageMap is the resolved image map, or a file that doesn't exist when every image is allowed.
func (c *Config) ImageMap() string { return c.Path("images.json") }

// Node finds a node by name.
func (c *Config) Node(name string) (Node, error) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	var names []string
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return Node{}, fmt.Errorf("no node %q; there are %s", name, strings.Join(names, ", "))
}

// Save writes the configuration into the state directory.
func (c *Config) Save() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.Path("config.json"), append(text, '\n'), 0o600)
}

// Load reads what Save wrote.
func Load(stateDir string) (*Config, error) {
	text, err := os.ReadFile(filepath.Join(stateDir, "config.json"))
	if err != nil {
		return nil, err
	}
	c := &Config{}
	return c, json.Unmarshal(text, c)
}

// Claim makes the state directory ours: it must not exist, be empty, or carry our marker.
func Claim(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 && !Claimed(dir) {
		return fmt.Errorf("%s is not empty and was not made by devcluster: choose another --state-dir", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, marker), []byte(markerText), 0o644)
}

// Claimed says whether the directory carries our marker.
func Claimed(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, marker))
	return err == nil
}

// DefaultNodes are used when none is named.
var DefaultNodes = []string{"cpu-0", "gpu-0:nvidia.com/gpu=4", "gpu-1:nvidia.com/gpu=4"}

var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ParseNodes reads `NAME[:RESOURCE=COUNT]...` once per node.
func ParseNodes(specs []string) ([]Node, error) {
	if len(specs) > MaxNodes {
		return nil, fmt.Errorf("%d nodes: at most %d are possible", len(specs), MaxNodes)
	}
	var nodes []Node
	for i, spec := range specs {
		node, err := parseNode(spec)
		if err != nil {
			return nil, fmt.Errorf("--node %s: %w", spec, err)
		}
		node.Number = i + 1
		if slices.ContainsFunc(nodes, func(n Node) bool { return n.Name == node.Name }) {
			return nil, fmt.Errorf("--node %s: the name %s is used twice", spec, node.Name)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

func parseNode(spec string) (Node, error) {
	parts := strings.Split(spec, ":")
	node := Node{Name: parts[0], Resources: map[string]int64{}}
	if !nodeName.MatchString(node.Name) {
		return node, fmt.Errorf("%q is no node name: use lower-case letters, digits and '-'", node.Name)
	}
	for _, part := range parts[1:] {
		resource, text, ok := strings.Cut(part, "=")
		if !ok || !strings.Contains(resource, "/") {
			return node, fmt.Errorf("%q is no resource: write it as nvidia.com/gpu=4", part)
		}
		count, err := strconv.ParseInt(text, 10, 64)
		if err != nil || count < 0 || count > maxCountPerName {
			return node, fmt.Errorf("%q is no count of %s: use a whole number from 0", text, resource)
		}
		node.Resources[resource] = count
	}
	return node, nil
}

// SocketPath is the control socket's path by way of the open state directory: a socket's address
// holds 108 bytes only, and state directories may lie deep.
func SocketPath(dir *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/control.sock", dir.Fd())
}
