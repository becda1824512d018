package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/supervisor"
)

// clusterStatus is what `status -o json` prints.
type clusterStatus struct {
	Up         bool                `json:"up"`
	PID        int                 `json:"pid,omitempty"`
	Server     string              `json:"server,omitempty"`
	Kubeconfig string              `json:"kubeconfig,omitempty"`
	Nodes      []config.Node       `json:"nodes,omitempty"`
	Components []supervisor.Status `json:"components,omitempty"`
}

func printStatus(w io.Writer, dir, output string) error {
	status := clusterStatus{}
	if running, ok := findSupervisor(dir); ok {
		cluster, err := config.Load(dir)
		if err != nil {
			return err
		}
		status = clusterStatus{Up: true, PID: running.PID, Server: "https://" + cluster.HostAddress, Kubeconfig: cluster.Kubeconfig(), Nodes: cluster.Nodes}
		text, err := call(dir, http.MethodGet, "/status")
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &status.Components); err != nil {
			return err
		}
	}
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(status)
	}
	if !status.Up {
		fmt.Fprintln(w, "not up")
		return nil
	}
	fmt.Fprintf(w, "up: pid %d, %s\nexport KUBECONFIG=%s\n", status.PID, status.Server, status.Kubeconfig)
	for _, c := range status.Components {
		state := "running"
		if !c.Running {
			state = "ended at " + c.Ended
		}
		fmt.Fprintf(w, "  %-20s %s\n", c.Name, state)
	}
	return nil
}

// call asks the supervisor something.
func call(dir, method, path string) ([]byte, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", config.SocketPath(file))
	}}}
	request, err := http.NewRequest(method, "http://supervisor"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the supervisor doesn't answer: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	return text, err
}

// componentAction kills or restarts one of the cluster's own processes.
func componentAction(dir, action, name string) error {
	if _, ok := findSupervisor(dir); !ok {
		return notUp(dir)
	}
	_, err := call(dir, http.MethodPost, "/components/"+name+"/"+action)
	return err
}

func nodeAction(dir, action, name string) error {
	if _, ok := findSupervisor(dir); !ok {
		return notUp(dir)
	}
	if action == "kill" || action == "restart" {
		_, err := call(dir, http.MethodPost, "/nodes/"+name+"/"+action)
		return err
	}
	args := []string{"kubectl", "--kubeconfig", filepath.Join(dir, "kubeconfig"), action, name}
	if action == "drain" {
		args = append(args, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "devcluster"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func notUp(dir string) error { return fmt.Errorf("no cluster is up in %s", dir) }

// execInside replaces this process by a command in the cluster's network namespace.
func execInside(dir string, argv []string) error {
	running, ok := findSupervisor(dir)
	if !ok {
		return notUp(dir)
	}
	if err := os.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfigs", "admin")); err != nil {
		return err
	}
	if os.Geteuid() != 0 { // a thread of a Go program can't enter a user namespace
		argv = append([]string{"nsenter", "--target", strconv.Itoa(running.PID), "--user", "--net", "--preserve-credentials", "--"}, argv...)
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // the thread that enters the namespace is the one that becomes the command
		namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", running.PID))
		if err != nil {
			return err
		}
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the cluster's network: %w", err)
		}
	}
	return unix.Exec(program, argv, os.Environ())
}
