package launch

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/easel-dev/easel/devcluster/internal/config"
	"github.com/easel-dev/easel/devcluster/internal/image"
	"github.com/easel-dev/easel/devcluster/internal/metrics"
	"github.com/easel-dev/easel/devcluster/internal/pki"
	"github.com/easel-dev/easel/devcluster/internal/policy"
	"github.com/easel-dev/easel/devcluster/internal/supervisor"
)

type upOptions struct {
	images                                                    string
	nodes                                                     []string
	hpaSyncPeriod, nodeMonitorGracePeriod, podEvictionTimeout time.Duration
	simulatedNodes                                            int
	networkPolicies                                           bool
}

func up(dir string, options upOptions) error {
	if running, ok := findSupervisor(dir); ok {
		fmt.Printf("already up (pid %d)\n", running.PID)
		printAccess(dir)
		return nil
	}
	if err := checkPrograms(options); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	cluster, err := prepare(dir, options, listener.Addr().String())
	if err != nil {
		return err
	}
	begin := time.Now()
	cmd, progress, err := startSupervisor(cluster, listener.(*net.TCPListener))
	if err != nil {
		return err
	}
	if err := follow(cmd, progress); err != nil {
		_ = cmd.Process.Kill() // the kernel ends everything that it started
		_ = cmd.Wait()
		_ = os.Remove(recordPath(dir))
		return err
	}
	fmt.Printf("up after %.1f s\n", time.Since(begin).Seconds())
	printAccess(dir)
	return nil
}

func printAccess(dir string) {
	fmt.Printf("export KUBECONFIG=%s\n", filepath.Join(dir, "kubeconfig"))
}

// checkPrograms names what is missing before anything is started.
func checkPrograms(options upOptions) error {
	needed := map[string]string{"nft": "nftables", "mount": "mount", "umount": "mount"}
	if options.networkPolicies {
		maps.Copy(needed, policy.Programs)
	}
	for program, debian := range needed {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not on PATH: install it (Debian package %s)", program, debian)
		}
	}
	return nil
}

// prepare fills the state directory with everything that the supervisor reads.
func prepare(dir string, options upOptions, address string) (*config.Config, error) {
	nodes, err := config.ParseNodes(options.nodes)
	if err != nil {
		return nil, err
	}
	if options.simulatedNodes < 0 {
		return nil, fmt.Errorf("--simulated-nodes %d: use a whole number from 0", options.simulatedNodes)
	}
	images, err := readImages(options.images)
	if err != nil {
		return nil, err
	}
	if config.Claimed(dir) { // what a cluster left that was not ended by `down`
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	if err := config.Claim(dir); err != nil {
		return nil, err
	}
	cluster := &config.Config{
		StateDir: dir, HostAddress: address, Nodes: nodes, SimulatedNodes: options.simulatedNodes, ImagesFile: options.images,
		NetworkPolicies: options.networkPolicies,
		HPASyncPeriod:   options.hpaSyncPeriod, NodeMonitorGracePeriod: options.nodeMonitorGracePeriod, PodEvictionTimeout: options.podEvictionTimeout,
	}
	for _, name := range []string{"log", "kubeconfigs", "nodes", "volumes"} {
		if err := os.MkdirAll(cluster.Path(name), 0o755); err != nil {
			return nil, err
		}
	}
	if images != nil {
		if err := images.Save(cluster.ImageMap()); err != nil {
			return nil, err
		}
	}
	if err := writeIdentities(cluster); err != nil {
		return nil, err
	}
	return cluster, cluster.Save()
}

func readImages(path string) (*image.Map, error) {
	if path == "" {
		return nil, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("image map: %w", err)
	}
	return image.Parse(text, path, os.LookupEnv)
}

// writeIdentities makes certificates and kubeconfig files.
func writeIdentities(cluster *config.Config) error {
	identities := pki.Cluster{
		Dir: cluster.Path("pki"), Nodes: map[string]string{},
		APIServerHosts: []string{"127.0.0.1", "localhost", config.APIServerIP, config.KubernetesIP, "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + config.ClusterDomain},
		Services: map[string][]string{metrics.ServiceName: {metrics.ServiceName + ".kube-system.svc"}},
	}
	names := []string{"supervisor", "controller-manager", "scheduler", "kube-proxy"}
	for _, node := range cluster.Nodes {
		identities.Nodes[node.Name] = node.IP()
		names = append(names, "kubelet-"+node.Name)
	}
	if err := identities.Write(time.Now()); err != nil {
		return err
	}
	for _, name := range names {
		if err := identities.WriteKubeconfig(cluster.Path("kubeconfigs", name), config.APIServerURL, name); err != nil {
			return err
		}
	}
	if err := identities.WriteKubeconfig(cluster.Path("kubeconfigs", "admin"), config.APIServerURL, "admin"); err != nil {
		return err
	}
	return identities.WriteKubeconfig(cluster.Kubeconfig(), "https://"+cluster.HostAddress, "admin")
}

// startSupervisor runs this program again as the first process of new PID, mount and network
// namespaces: its end is, by the kernel, the end of everything in them.
func startSupervisor(cluster *config.Config, listener *net.TCPListener) (*exec.Cmd, *os.File, error) {
	socket, err := listener.File()
	if err != nil {
		return nil, nil, err
	}
	defer socket.Close()
	progress, report, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer report.Close()
	log, err := os.OpenFile(supervisorLog(cluster.StateDir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "supervise", cluster.StateDir)
	cmd.Args[0] = "devcluster"
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = cluster.StateDir, log, log, []*os.File{socket, report}
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting the supervisor in its own namespaces: %w%s", err, namespaceHint(err))
	}
	if err := writeRecord(cluster.StateDir, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return nil, nil, err
	}
	return cmd, progress, nil
}

func supervisorLog(dir string) string { return filepath.Join(dir, "log", "supervisor.log") }

func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

func namespaceHint(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (run it as root, or allow unprivileged user namespaces)"
	}
	return ""
}

// follow prints the supervisor's progress until the cluster is ready. Ctrl-C ends the cluster.
func follow(cmd *exec.Cmd, progress *os.File) error {
	defer progress.Close()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(interrupts)
	var interrupted atomic.Bool
	go func() {
		if _, ok := <-interrupts; ok {
			interrupted.Store(true)
			_ = cmd.Process.Kill() // the pipe ends, and with it the loop below
		}
	}()
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		var line supervisor.Progress
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return err
		}
		switch {
		case line.Error != "":
			return errors.New(line.Error)
		case line.Ready:
			return nil
		default:
			fmt.Printf("%6.1f s  %s\n", line.Seconds, line.Phase)
		}
	}
	if interrupted.Load() {
		return errors.New("interrupted")
	}
	text, _ := os.ReadFile(supervisorLog(cmd.Dir))
	return fmt.Errorf("the supervisor ended before the cluster was ready; its log:\n%s", strings.TrimSpace(string(text)))
}
