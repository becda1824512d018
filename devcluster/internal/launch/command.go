// Package launch is the command line on the host's side: it starts a cluster's
// supervisor in namespaces of its own, talks to it and ends it.
package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// NewCommand is `devcluster`.
func NewCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "devcluster", Short: "A Kubernetes cluster whose pods are local processes",
		SilenceUsage: true, SilenceErrors: true,
	}
	var stateDir string
	root.PersistentFlags().StringVar(&stateDir, "state-dir", "", "directory of the cluster's files (required)")
	resolve := func() (string, error) {
		if stateDir == "" {
			return "", errors.New("--state-dir is required: it names the directory of the cluster's files")
		}
		return filepath.Abs(stateDir)
	}
	root.AddCommand(upCommand(resolve), downCommand(resolve), statusCommand(resolve), execCommand(resolve), nodeCommand(resolve),
		componentCommand(resolve, "kill", "End one of the cluster's own processes at once, such as apiserver or etcd (status lists them)"),
		componentCommand(resolve, "restart", "Start one of the cluster's own processes again, with its data"),
		&cobra.Command{Use: "version", Short: "Print the version of Kubernetes", Args: cobra.NoArgs, Run: func(*cobra.Command, []string) {
			fmt.Println("devcluster with Kubernetes", version.Get().GitVersion)
		}},
		&cobra.Command{Use: "kubectl ARGS...", Short: "The real kubectl", Run: func(*cobra.Command, []string) {}},
		&cobra.Command{Use: "helm ARGS...", Short: "The real Helm", Run: func(*cobra.Command, []string) {}},
	)
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// stateDirFlag is the absolute path of the state directory.
type stateDirFlag func() (string, error)

func upCommand(stateDir stateDirFlag) *cobra.Command {
	var options upOptions
	cmd := &cobra.Command{Use: "up", Short: "Start a cluster in the background", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		return up(dir, options)
	}}
	flags := cmd.Flags()
	flags.StringVar(&options.images, "images", "", "image map (YAML); without it every image exists and pods must name a command")
	flags.StringArrayVar(&options.nodes, "node", config.DefaultNodes, "a node, as NAME[:RESOURCE=COUNT]...; may be repeated")
	flags.DurationVar(&options.hpaSyncPeriod, "hpa-sync-period", 15*time.Second, "how often horizontal pod autoscalers act")
	flags.DurationVar(&options.nodeMonitorGracePeriod, "node-monitor-grace-period", 20*time.Second, "how long a silent node stays Ready")
	flags.DurationVar(&options.podEvictionTimeout, "pod-eviction-timeout", 30*time.Second,
		"how long pods stay bound to a node that is not Ready (300s in a real cluster)")
	flags.BoolVar(&options.networkPolicies, "network-policies", false, "enforce NetworkPolicies (needs iptables and ipset)")
	flags.IntVar(&options.simulatedNodes, "simulated-nodes", 0, "nodes whose pods only claim to run, for scale tests")
	return cmd
}

func downCommand(stateDir stateDirFlag) *cobra.Command {
	return &cobra.Command{Use: "down", Short: "End a cluster and remove its files", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		return down(dir)
	}}
}

func statusCommand(stateDir stateDirFlag) *cobra.Command {
	var output string
	cmd := &cobra.Command{Use: "status", Short: "Say whether a cluster is up", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		return printStatus(os.Stdout, dir, output)
	}}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for text")
	return cmd
}

func execCommand(stateDir stateDirFlag) *cobra.Command {
	return &cobra.Command{Use: "exec -- COMMAND...", Short: "Run a command in the cluster's network", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			return execInside(dir, args)
		}}
}

func componentCommand(stateDir stateDirFlag, action, short string) *cobra.Command {
	return &cobra.Command{Use: action + " COMPONENT", Short: short, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		return componentAction(dir, action, args[0])
	}}
}

func nodeCommand(stateDir stateDirFlag) *cobra.Command {
	node := &cobra.Command{Use: "node", Short: "Do something to a node"}
	for name, short := range map[string]string{
		"kill":     "End a node's kubelet and all its pods at once, like a machine that loses power",
		"restart":  "Start a node's kubelet (again)",
		"cordon":   "Let no new pod onto a node",
		"uncordon": "Let pods onto a node again",
		"drain":    "Cordon a node and evict its pods",
	} {
		node.AddCommand(&cobra.Command{Use: name + " NODE", Short: short, Args: cobra.MinimumNArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			return nodeAction(dir, name, args[0])
		}})
	}
	return node
}
