// Command devcluster is a whole Kubernetes cluster in one program: its control
// plane, its nodes, kubectl and helm. Pods are processes of this machine.
//
// Called as `kubectl` or `helm` (by a symbolic link) it is that tool.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/easel-dev/easel/devcluster/internal/component"
	"github.com/easel-dev/easel/devcluster/internal/launch"
	"github.com/easel-dev/easel/devcluster/internal/supervisor"
)

func main() {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:]))
}

func run(program string, args []string) int {
	switch program {
	case "kubectl":
		return component.Kubectl(args)
	case "helm":
		return component.Helm(args)
	}
	if len(args) > 0 {
		switch args[0] {
		case "kubectl":
			return component.Kubectl(args[1:])
		case "helm":
			return component.Helm(args[1:])
		case "component": // started by the supervisor
			return component.Run(args[1], args[2:])
		case "supervise": // started by `up`
			return exitCode(supervisor.Run(args[1]))
		}
	}
	return exitCode(launch.NewCommand().Execute())
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		return 1
	}
	return 0
}
