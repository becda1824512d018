// Package supervisor is the first process of the cluster's PID, mount and
// network namespaces: it starts every component, serves what has no component
// of its own (DNS, resource metrics, volumes), and ends with everything.
package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/mounts"
	"github.com/easel-dev/easel/devcluster/internal/process"
)

// File descriptors that the parent passes on.
const (
	ListenerFD = 3 // a listening socket in the host's network namespace
	ProgressFD = 4 // a pipe for Progress lines
)

// Progress is one line of the supervisor's report to `up`.
type Progress struct {
	Phase   string  `json:"phase,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Error   string  `json:"error,omitempty"`
	Ready   bool    `json:"ready,omitempty"`
}

// Supervisor is a running cluster.
type Supervisor struct {
	cluster    *config.Config
	components *components
	progress   *json.Encoder
	started    time.Time
}

// Run starts the cluster and returns when it has been told to stop, or when it could not start.
func Run(stateDir string) error {
	progressFile := os.NewFile(ProgressFD, "progress")
	s := &Supervisor{progress: json.NewEncoder(progressFile), started: time.Now()}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err := s.start(ctx, stateDir)
	if err != nil {
		_ = s.progress.Encode(Progress{Error: err.Error()})
		return err
	}
	_ = s.progress.Encode(Progress{Ready: true, Seconds: time.Since(s.started).Seconds()})
	_ = progressFile.Close() // `up` goes on at the pipe's end
	<-ctx.Done()
	return nil // the kernel ends the rest with this process
}

func (s *Supervisor) start(ctx context.Context, stateDir string) error {
	cluster, err := config.Load(stateDir)
	if err != nil {
		return err
	}
	s.cluster = cluster
	if err := enterNamespaces(stateDir); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	if err := setUpNetwork(cluster); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	go process.ReapOrphans(ctx)
	s.components = newComponents(cluster)
	if err := s.serveControl(); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	listener, err := net.FileListener(os.NewFile(ListenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	go forward(listener)
	return s.startCluster(ctx)
}

// enterNamespaces keeps this namespace's mounts from the host's and gives the state directory a
// short name besides its own: kubelets make sockets in it, and a socket's path holds 108 bytes.
func enterNamespaces(stateDir string) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("the supervisor must be the first process of a PID namespace: it is started by `devcluster up`")
	}
	if err := mounts.Own(); err != nil {
		return err
	}
	parent, name := filepath.Split(config.ShortStateDir)
	names, err := mounts.Names(parent)
	if err != nil {
		return err
	}
	scratch := filepath.Join(stateDir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", scratch, err)
	}
	if err := mounts.ShowAll(parent, scratch, names); err != nil {
		return err
	}
	short := filepath.Join(scratch, name)
	if err := os.MkdirAll(short, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(stateDir, short, "", unix.MS_BIND, ""); err != nil { // without the tmpfs in it
		return fmt.Errorf("bind %s: %w", stateDir, err)
	}
	return unix.Mount(scratch, parent, "", unix.MS_MOVE, "")
}

// phase runs a step of the start-up and reports how long it took.
func (s *Supervisor) phase(name string, step func() error) error {
	begin := time.Now()
	if err := step(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	klog.InfoS("phase done", "phase", name, "seconds", time.Since(begin).Seconds())
	return s.progress.Encode(Progress{Phase: name, Seconds: time.Since(begin).Seconds()})
}
