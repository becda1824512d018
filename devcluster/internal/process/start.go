package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// startError is the exit code that Kubernetes shows for a container that could not start.
	startError = 128
	// drainTimeout bounds the wait for output that a dead container's pipes still hold.
	drainTimeout = time.Second
)

// StartContainer implements the CRI.
func (r *Runtime) StartContainer(_ context.Context, id string) error {
	c, err := r.get(id)
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	go r.run(c, started)
	return <-started
}

// run prepares a thread's namespaces, starts the process from it and waits for its end. No
// helper program runs in between: re-executing this large binary would cost more than the pod.
func (r *Runtime) run(c *container, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the changed thread ends with the goroutine
	drained, err := r.start(c)
	if err != nil {
		r.mu.Lock()
		now := time.Now().UnixNano()
		c.state, c.exitCode, c.reason, c.message = api.ContainerState_CONTAINER_EXITED, startError, "StartError", err.Error()
		c.started, c.finished = now, now
		close(c.done)
		r.mu.Unlock()
		started <- err
		return
	}
	started <- nil
	state, _ := c.process.Wait()
	killAll(c.mounts) // what the first process left behind
	select {
	case <-drained:
	case <-time.After(drainTimeout):
	}
	c.log.replace(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	c.finish(state)
}

// finish needs the runtime's mutex.
func (c *container) finish(state *os.ProcessState) {
	c.state, c.finished, c.reason = api.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), "Completed"
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		c.exitCode = 128 + int32(status.Signal())
	} else {
		c.exitCode = int32(state.ExitCode())
	}
	if c.exitCode != 0 {
		c.reason = "Error"
	}
	close(c.done)
}

// start runs on a locked thread of its own.
func (r *Runtime) start(c *container) (drained <-chan struct{}, err error) {
	if c.log, err = openLog(c.logPath); err != nil {
		return nil, err
	}
	if err := r.enterNew(c); err != nil {
		return nil, fmt.Errorf("preparing namespaces: %w", err)
	}
	var own unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/self/task/%d/ns/mnt", unix.Gettid()), &own); err != nil {
		return nil, err
	}
	c.mounts = own.Ino
	cmd, err := c.command(context.Background(), c.argv)
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c.process, c.state, c.started = cmd.Process, api.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.mu.Unlock()
	return c.copyOutput(stdout, stderr), nil
}

func (c *container) copyOutput(stdout, stderr io.ReadCloser) <-chan struct{} {
	var streams sync.WaitGroup
	for name, stream := range map[string]io.ReadCloser{"stdout": stdout, "stderr": stderr} {
		streams.Go(func() { defer stream.Close(); c.log.copy(stream, name) })
	}
	drained := make(chan struct{})
	go func() { streams.Wait(); close(drained) }()
	return drained
}

// command prepares a command line as the container's user, in the calling thread's namespaces.
func (c *container) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	env := c.environment()
	file, err := find(argv[0], env["PATH"])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, file)
	cmd.Args, cmd.Dir = argv, c.workingDir()
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	slices.Sort(cmd.Env)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Credential: c.credential()}
	return cmd, c.restrict()
}

func (c *container) workingDir() string {
	for _, dir := range []string{c.config.WorkingDir, c.image.WorkingDir} {
		if dir != "" {
			return dir
		}
	}
	return "/"
}

// environment is the image's, over which the pod's goes.
func (c *container) environment() map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOSTNAME": c.sandbox.config.Hostname, "HOME": "/"}
	if c.uid() == 0 {
		env["HOME"] = "/root"
	}
	for name, value := range c.image.Env {
		env[name] = value
	}
	for _, e := range c.config.Envs {
		env[e.Key] = string(e.Value)
	}
	return env
}

func find(program, path string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in %s", program, path)
}
