package supervisor

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// endTimeout bounds the wait for a killed node's processes.
const endTimeout = 15 * time.Second

// Status is how a component is.
type Status struct {
	Name    string `json:"name"`
	PID     int    `json:"pid,omitempty"` // in the cluster's PID namespace
	Running bool   `json:"running"`
	Ended   string `json:"ended,omitempty"`
}

// components are the processes of the cluster. One that ends is not started again: a cluster
// that heals itself would hide what a test should see.
type components struct {
	cluster *config.Config
	mu      sync.Mutex
	running map[string]*component
}

type component struct {
	name  string
	start func() error // the same again
	cmd   *exec.Cmd
	done  chan struct{}
	ended string
}

func newComponents(cluster *config.Config) *components {
	return &components{cluster: cluster, running: map[string]*component{}}
}

// start runs `devcluster component NAME ARGS...` with its output in log/TITLE.log.
func (cs *components) start(title, name string, cloneFlags uintptr, args ...string) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.running[title]; c != nil && !c.hasEnded() {
		return fmt.Errorf("%s runs already", title)
	}
	log, err := os.OpenFile(cs.logPath(title), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"component", name}, args...)...)
	cmd.Args[0] = "devcluster"
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, cs.cluster.StateDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: cloneFlags}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	again := func() error { return cs.start(title, name, cloneFlags, args...) }
	c := &component{name: title, start: again, cmd: cmd, done: make(chan struct{})}
	cs.running[title] = c
	go func() {
		err := cmd.Wait()
		cs.mu.Lock()
		defer cs.mu.Unlock()
		c.ended = fmt.Sprintf("%s (%v)", time.Now().UTC().Format(time.RFC3339), err)
		klog.InfoS("component ended", "component", title, "err", err)
		close(c.done)
	}()
	return nil
}

func (c *component) hasEnded() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (cs *components) logPath(title string) string { return cs.cluster.Path("log", title+".log") }

// kill ends a component with SIGKILL and waits until nothing of it is left.
func (cs *components) kill(title string) error {
	cs.mu.Lock()
	c := cs.running[title]
	cs.mu.Unlock()
	if c == nil || c.hasEnded() {
		return fmt.Errorf("%s is not running", title)
	}
	_ = c.cmd.Process.Kill()
	select {
	case <-c.done:
		return nil
	case <-time.After(endTimeout):
		return fmt.Errorf("%s survives SIGKILL", title)
	}
}

// restart starts a component again as it was started before, and kills it first if it runs.
func (cs *components) restart(title string) error {
	cs.mu.Lock()
	c := cs.running[title]
	cs.mu.Unlock()
	if c == nil {
		return fmt.Errorf("%s was never started", title)
	}
	_ = cs.kill(title) // it may have been killed before
	return c.start()
}

// has is an error that lists the components there are, unless this is one of them.
func (cs *components) has(title string) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, ok := cs.running[title]; ok {
		return nil
	}
	titles := slices.Sorted(maps.Keys(cs.running))
	return fmt.Errorf("no component %q; there are %s", title, strings.Join(titles, ", "))
}

// check returns an error when a component has ended, with the end of its log.
func (cs *components) check(titles ...string) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for title, c := range cs.running {
		if (len(titles) == 0 || slices.Contains(titles, title)) && c.hasEnded() {
			return fmt.Errorf("%s ended at %s; the end of %s:\n%s", title, c.ended, cs.logPath(title), tail(cs.logPath(title)))
		}
	}
	return nil
}

func (cs *components) status() []Status {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []Status
	for _, c := range cs.running {
		out = append(out, Status{Name: c.name, PID: c.cmd.Process.Pid, Running: !c.hasEnded(), Ended: c.ended})
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// tail is the end of a log, for error messages.
func tail(path string) string {
	const lines = 15
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")
}
