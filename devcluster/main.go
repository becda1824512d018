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
	findSystemPrograms()
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

// findSystemPrograms lets nft and mount be found: the folders that hold them are on root's
// search path, but seldom on a user's or a CI job's.
func findSystemPrograms() {
	path := os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
	if err := os.Setenv("PATH", path); err != nil {
		panic(err) // only for a name with "=" or NUL in it
	}
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		return 1
	}
	return 0
}
