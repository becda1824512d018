package process

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/easel-dev/easel/devcluster/internal/image"
)

// container is a process tree with a mount namespace of its own.
type container struct {
	id, logPath                string
	sandbox                    *sandbox
	config                     *api.ContainerConfig
	image                      *image.Image
	argv                       []string
	state                      api.ContainerState
	created, started, finished int64
	exitCode                   int32
	reason, message            string
	process                    *os.Process
	mounts                     uint64 // inode of its mount namespace: the mark of all its processes
	done                       chan struct{}
	log                        *criLog
	spentNanoseconds           uint64 // CPU time seen so far; never decreases
}

// survivesKill bounds the wait for the end of a process after SIGKILL.
const survivesKill = 10 * time.Second

// CreateContainer implements the CRI.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *api.ContainerConfig, pod *api.PodSandboxConfig) (string, error) {
	img, err := r.findImage(config.Image)
	if err != nil {
		return "", err
	}
	argv, err := img.Argv(config.Command, config.Args)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[sandboxID]
	if s == nil {
		return "", status.Errorf(codes.NotFound, "no sandbox %s", sandboxID)
	}
	c := &container{id: r.newID("c"), sandbox: s, config: config, image: img, argv: argv, created: time.Now().UnixNano(),
		done: make(chan struct{}), state: api.ContainerState_CONTAINER_CREATED, logPath: filepath.Join(pod.LogDirectory, config.LogPath)}
	r.containers[c.id] = c
	return c.id, nil
}

func (r *Runtime) get(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "no container %s", id)
}

// StopContainer implements the CRI: the stop signal to the first process, then, when the grace
// period is over, SIGKILL to every process of the container.
func (r *Runtime) StopContainer(ctx context.Context, id string, graceSeconds int64) error {
	c, err := r.get(id)
	if err != nil {
		return nil //nolint:nilerr // gone already
	}
	r.mu.Lock()
	process, running := c.process, c.state == api.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !running {
		return nil
	}
	if graceSeconds > 0 {
		klog.InfoS("stopping", "container", c.config.Metadata.Name, "pid", process.Pid, "graceSeconds", graceSeconds)
		_ = process.Signal(c.stopSignal())
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(graceSeconds) * time.Second):
		}
	}
	_ = process.Kill()
	select {
	case <-c.done:
		return nil
	case <-time.After(survivesKill):
		return status.Errorf(codes.DeadlineExceeded, "container %s survives SIGKILL", id)
	}
}

func (c *container) stopSignal() unix.Signal {
	if name, ok := strings.CutPrefix(c.config.GetStopSignal().String(), "SIGNAL_"); ok {
		if signal := unix.SignalNum(name); signal != 0 {
			return signal
		}
	}
	return unix.SIGTERM
}

// RemoveContainer implements the CRI.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	_ = r.StopContainer(ctx, id, 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		_ = os.Remove(c.logPath)
		delete(r.containers, id)
	}
	return nil
}

// ListContainers implements the CRI.
func (r *Runtime) ListContainers(_ context.Context, filter *api.ContainerFilter) ([]*api.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*api.Container
	for _, c := range r.containers {
		if filter != nil && (filter.Id != "" && filter.Id != c.id || filter.State != nil && filter.State.State != c.state ||
			filter.PodSandboxId != "" && filter.PodSandboxId != c.sandbox.id || !matches(c.config.Labels, filter.LabelSelector)) {
			continue
		}
		id := imageID(imageName(c.config.Image))
		out = append(out, &api.Container{Id: c.id, PodSandboxId: c.sandbox.id, Metadata: c.config.Metadata, Image: c.config.Image,
			ImageRef: id, ImageId: id, State: c.state, CreatedAt: c.created, Labels: c.config.Labels, Annotations: c.config.Annotations})
	}
	slices.SortFunc(out, func(a, b *api.Container) int { return strings.Compare(a.Id, b.Id) })
	return out, nil
}

// ContainerStatus implements the CRI.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*api.ContainerStatusResponse, error) {
	c, err := r.get(id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := imageName(c.config.Image)
	return &api.ContainerStatusResponse{Status: &api.ContainerStatus{
		Id: c.id, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created, StartedAt: c.started, FinishedAt: c.finished,
		ExitCode: c.exitCode, Image: &api.ImageSpec{Image: name}, ImageRef: imageID(name), ImageId: imageID(name),
		Reason: c.reason, Message: c.message, Labels: c.config.Labels, Annotations: c.config.Annotations,
		Mounts: c.config.Mounts, LogPath: c.logPath,
	}}, nil
}
