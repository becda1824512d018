package component

import (
	"errors"
	"fmt"
	"os"

	helmcmd "helm.sh/helm/v4/pkg/cmd"
	"helm.sh/helm/v4/pkg/kube"
)

// Helm is the real Helm.
func Helm(args []string) int {
	os.Args = append([]string{"helm"}, args...)
	kube.ManagedFieldsManager = "helm" // as helm's own main does, whatever the program's name
	cmd, err := helmcmd.NewRootCmd(os.Stdout, args, helmcmd.SetupLogging)
	if err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		return 1
	}
	if err := cmd.Execute(); err != nil {
		if failed, ok := errors.AsType[helmcmd.CommandError](err); ok {
			return failed.ExitCode
		}
		return 1
	}
	return 0
}
