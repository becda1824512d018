package process

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/easel-dev/easel/devcluster/internal/image"
)

func TestParseStatReadsPastAStrangeName(t *testing.T) {
	text := "42 (a) b) c) S 7 1 1 0 -1 0 0 0 0 0 100 50 10 5 20 0 1 0 99 4096 3 0"
	entry, ok := parseStat([]byte(text))
	if !ok || entry.parent != 7 || entry.zombie || entry.cpuNanoseconds != 165*nanosecondsPerTick || entry.rssBytes != 3*uint64(os.Getpagesize()) {
		t.Errorf("%+v %v", entry, ok)
	}
	if _, ok := parseStat([]byte("42 (short) S 1")); ok {
		t.Error("a short line was read")
	}
}

func TestNeededFollowsAnInterpreterIntoItsInstallation(t *testing.T) {
	root := t.TempDir()
	python := filepath.Join(root, "home", "pythons", "3.11", "bin", "python3")
	venv := filepath.Join(root, "venv", "bin")
	for _, dir := range []string{filepath.Dir(python), venv} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(python, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(python, filepath.Join(venv, "python")); err != nil {
		t.Fatal(err)
	}
	c := &container{image: &image.Image{Env: map[string]string{"PATH": venv + ":/usr/bin"}}, config: &api.ContainerConfig{}}
	needed := c.needed()
	for _, want := range []string{venv, filepath.Join(root, "home", "pythons", "3.11")} {
		if !slices.Contains(needed, want) {
			t.Errorf("%s is not in %s", want, needed)
		}
	}
	if slices.Contains(needed, "/usr/bin") {
		t.Error("system directories are open anyway")
	}
}

func TestFirstNames(t *testing.T) {
	got := firstNames("/home/ann", []string{"/home/ann/.pyenv/versions/3.11", "/home/ann/.local/bin", "/home/ann/.pyenv/x", "/home/anne/a", "/home/ann"})
	if !slices.Equal(got, []string{".pyenv", ".local"}) {
		t.Error(got)
	}
}

func TestEnvironmentPodOverImageOverDefault(t *testing.T) {
	user := int64(65532)
	c := &container{
		sandbox: &sandbox{config: &api.PodSandboxConfig{Hostname: "h"}},
		image:   &image.Image{User: &user, Env: map[string]string{"PATH": "/image", "A": "image", "B": "image"}},
		config:  &api.ContainerConfig{Envs: []*api.KeyValue{{Key: "B", Value: []byte("pod")}}},
	}
	env := c.environment()
	for name, want := range map[string]string{"PATH": "/image", "A": "image", "B": "pod", "HOSTNAME": "h", "HOME": "/"} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
}

func TestCapabilitiesDropAllThenAdd(t *testing.T) {
	keep := map[uintptr]bool{}
	for _, capability := range defaultCapabilities {
		keep[capability] = true
	}
	apply(keep, []string{"ALL"}, false)
	apply(keep, []string{"NET_BIND_SERVICE", "CAP_KILL"}, true)
	kept := 0
	for _, value := range keep {
		if value {
			kept++
		}
	}
	if kept != 2 || !keep[capabilities["NET_BIND_SERVICE"]] || !keep[capabilities["KILL"]] {
		t.Error(keep)
	}
}
