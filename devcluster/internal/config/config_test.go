package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseNodes(t *testing.T) {
	nodes, err := ParseNodes([]string{"cpu-0", "gpu-0:nvidia.com/gpu=4:example.com/nic=1"})
	if err != nil {
		t.Fatal(err)
	}
	cpu, gpu := nodes[0], nodes[1]
	if cpu.HasGPU() || cpu.IP() != "192.168.77.11" || cpu.PodCIDR() != "10.244.1.0/24" {
		t.Errorf("%+v", cpu)
	}
	if !gpu.HasGPU() || gpu.Resources["nvidia.com/gpu"] != 4 || gpu.Resources["example.com/nic"] != 1 || gpu.IP() != "192.168.77.12" {
		t.Errorf("%+v", gpu)
	}
}

func TestParseNodesRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		specs []string
		want  string
	}{
		"a name that Kubernetes refuses": {[]string{"GPU"}, "is no node name"},
		"a name twice":                   {[]string{"a", "a"}, "used twice"},
		"a resource without a domain":    {[]string{"a:gpu=1"}, "is no resource"},
		"a resource without a count":     {[]string{"a:nvidia.com/gpu"}, "is no resource"},
		"a count that is no number":      {[]string{"a:nvidia.com/gpu=x"}, "is no count"},
		"a negative count":               {[]string{"a:nvidia.com/gpu=-1"}, "is no count"},
		"more nodes than addresses":      {make([]string, MaxNodes+1), "at most"},
	} {
		if _, err := ParseNodes(test.specs); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestDefaultNodesAreValid(t *testing.T) {
	if _, err := ParseNodes(DefaultNodes); err != nil {
		t.Error(err)
	}
}

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := Claim(dir); err != nil {
		t.Errorf("a directory that doesn't exist: %v", err)
	}
	if err := Claim(dir); err != nil || !Claimed(dir) {
		t.Errorf("our own directory: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Claim(foreign); err == nil || Claimed(foreign) {
		t.Error("someone else's directory was claimed")
	}
}
