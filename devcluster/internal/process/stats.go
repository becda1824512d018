package process

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usageTracker turns scans of /proc into counters that never decrease.
type usageTracker struct {
	mu              sync.Mutex
	nodeNanoseconds uint64
	lastNanoseconds map[int]uint64 // by pid
}

// use is what a group of processes has used up to now.
type use struct {
	cpuNanoseconds, rssBytes uint64
}

// NodeUsage is the use of every process of this node, the kubelet included.
func (r *Runtime) NodeUsage() (cpuNanoseconds, rssBytes uint64) {
	entries := scan()
	r.usage.mu.Lock()
	defer r.usage.mu.Unlock()
	last := make(map[int]uint64, len(entries))
	for _, entry := range entries {
		last[entry.pid] = entry.cpuNanoseconds
		if before := r.usage.lastNanoseconds[entry.pid]; entry.cpuNanoseconds > before {
			r.usage.nodeNanoseconds += entry.cpuNanoseconds - before
		}
		rssBytes += entry.rssBytes
	}
	r.usage.lastNanoseconds = last
	return r.usage.nodeNanoseconds, rssBytes
}

func usageByMounts() map[uint64]use {
	out := map[uint64]use{}
	for _, entry := range scan() {
		if isThisProgram(entry.pid) { // between fork and exec a container's new process still has the kubelet's memory
			continue
		}
		sum := out[entry.mounts]
		sum.cpuNanoseconds += entry.cpuNanoseconds
		sum.rssBytes += entry.rssBytes
		out[entry.mounts] = sum
	}
	return out
}

// stats needs r.mu. CPU time of processes that end without being waited for by their parent is
// lost, so the sum may fall: the counter then stands still.
func (c *container) stats(now time.Time, used use) *api.ContainerStats {
	c.spentNanoseconds = max(c.spentNanoseconds, used.cpuNanoseconds)
	value := func(v uint64) *api.UInt64Value { return &api.UInt64Value{Value: v} }
	return &api.ContainerStats{
		Attributes: &api.ContainerAttributes{Id: c.id, Metadata: c.config.Metadata, Labels: c.config.Labels, Annotations: c.config.Annotations},
		Cpu:        &api.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: value(c.spentNanoseconds)},
		Memory: &api.MemoryUsage{Timestamp: now.UnixNano(), WorkingSetBytes: value(used.rssBytes), RssBytes: value(used.rssBytes),
			UsageBytes: value(used.rssBytes)},
		WritableLayer: &api.FilesystemUsage{Timestamp: now.UnixNano(), FsId: &api.FilesystemIdentifier{Mountpoint: "/"},
			UsedBytes: value(0), InodesUsed: value(0)},
	}
}

// ContainerStats implements the CRI.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*api.ContainerStats, error) {
	c, err := r.get(id)
	if err != nil {
		return nil, err
	}
	used := usageByMounts()
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.stats(time.Now(), used[c.mounts]), nil
}

// ListContainerStats implements the CRI.
func (r *Runtime) ListContainerStats(_ context.Context, filter *api.ContainerStatsFilter) ([]*api.ContainerStats, error) {
	used := usageByMounts()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*api.ContainerStats
	for _, c := range r.containers {
		if c.state != api.ContainerState_CONTAINER_RUNNING || filter.GetId() != "" && filter.GetId() != c.id ||
			filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != c.sandbox.id || !matches(c.config.Labels, filter.GetLabelSelector()) {
			continue
		}
		out = append(out, c.stats(time.Now(), used[c.mounts]))
	}
	return out, nil
}

// PodSandboxStats is for runtimes that replace cAdvisor altogether; the kubelet asks for
// containers here.
func (r *Runtime) PodSandboxStats(context.Context, string) (*api.PodSandboxStats, error) {
	return nil, status.Error(codes.Unimplemented, "pod stats")
}

// ListPodSandboxStats is like PodSandboxStats.
func (r *Runtime) ListPodSandboxStats(context.Context, *api.PodSandboxStatsFilter) ([]*api.PodSandboxStats, error) {
	return nil, status.Error(codes.Unimplemented, "pod stats")
}
