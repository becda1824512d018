package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	utilexec "k8s.io/utils/exec"
)

// outputDelay bounds the wait for output after a command's end.
const outputDelay = time.Second

// execIn runs a command inside a container.
func (r *Runtime) execIn(ctx context.Context, id string, argv []string, in io.Reader, out, errOut io.Writer) error {
	c, err := r.get(id)
	if err != nil {
		return err
	}
	r.mu.Lock()
	process, running := c.process, c.state == api.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !running {
		return status.Errorf(codes.FailedPrecondition, "container %s is not running", c.config.Metadata.Name)
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the changed thread ends with the goroutine
		result <- func() error {
			if err := enter(process.Pid, c.sandbox.network != nil); err != nil {
				return err
			}
			cmd, err := c.command(ctx, argv)
			if err != nil {
				return err
			}
			cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = in, out, errOut, outputDelay
			return cmd.Run()
		}()
	}()
	err = <-result
	var ended *exec.ExitError
	if ctx.Err() != nil {
		return status.Error(codes.DeadlineExceeded, "command timed out")
	} else if errors.As(err, &ended) {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", ended.ExitCode()), Code: ended.ExitCode()}
	}
	return err
}

// enter moves the calling (locked) thread into the namespaces of a process.
func enter(pid int, ownNetwork bool) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread changes its mount namespace only with an fs struct of its own
		return err
	}
	namespaces := []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}}
	if !ownNetwork {
		namespaces = namespaces[1:]
	}
	for _, ns := range namespaces {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return err
		}
		err = unix.Setns(int(file.Fd()), ns.flag)
		_ = file.Close()
		if err != nil {
			return fmt.Errorf("setns %s: %w", ns.name, err)
		}
	}
	return nil
}

// ExecSync implements the CRI.
func (r *Runtime) ExecSync(ctx context.Context, id string, argv []string, timeout time.Duration) ([]byte, []byte, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var out, errOut strings.Builder
	err := r.execIn(ctx, id, argv, nil, &out, &errOut)
	return []byte(out.String()), []byte(errOut.String()), err
}

// Exec implements the CRI.
func (r *Runtime) Exec(_ context.Context, request *api.ExecRequest) (*api.ExecResponse, error) {
	return r.stream.GetExec(request)
}

// Attach implements the CRI.
func (r *Runtime) Attach(_ context.Context, request *api.AttachRequest) (*api.AttachResponse, error) {
	return r.stream.GetAttach(request)
}

// PortForward implements the CRI.
func (r *Runtime) PortForward(_ context.Context, request *api.PortForwardRequest) (*api.PortForwardResponse, error) {
	return r.stream.GetPortForward(request)
}

// startStreaming serves exec and port-forward sessions to the kubelet that lives in this process.
func (r *Runtime) startStreaming() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	config := streaming.DefaultConfig
	config.Addr = listener.Addr().String()
	_ = listener.Close() // the server opens it again
	if r.stream, err = streaming.NewServer(config, streamer{r}); err != nil {
		return err
	}
	go func() { klog.ErrorS(r.stream.Start(true), "streaming server ended") }()
	return nil
}

type streamer struct{ r *Runtime }

func (s streamer) Exec(ctx context.Context, id string, argv []string, in io.Reader, out, errOut io.WriteCloser, _ bool,
	_ <-chan remotecommand.TerminalSize) error {
	var stdout, stderr io.Writer = io.Discard, io.Discard
	if out != nil {
		stdout, stderr = out, out // a terminal has one stream (there is no pseudo-terminal here)
	}
	if errOut != nil {
		stderr = errOut
	}
	return s.r.execIn(ctx, id, argv, in, stdout, stderr)
}

func (s streamer) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.New("attach is not supported by the embedded cluster: use kubectl logs -f or kubectl exec")
}

func (s streamer) PortForward(_ context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	s.r.mu.Lock()
	sb := s.r.sandboxes[sandboxID]
	s.r.mu.Unlock()
	if sb == nil || !sb.ready {
		return errors.New("the pod has ended")
	}
	var conn net.Conn
	err := inNetwork(sb.network, func() (err error) {
		conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	return err
}
