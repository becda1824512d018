package image

import (
	"slices"
	"strings"
	"testing"
)

func TestRepository(t *testing.T) {
	for reference, want := range map[string]string{
		"nginx":                            "docker.io/library/nginx",
		"nginx:1.27":                       "docker.io/library/nginx",
		"docker.io/nginx:1.27":             "docker.io/library/nginx",
		"docker.io/library/nginx":          "docker.io/library/nginx",
		"index.docker.io/library/nginx":    "docker.io/library/nginx",
		"valkey/valkey:8":                  "docker.io/valkey/valkey",
		"ghcr.io/easel-dev/easel-operator": "ghcr.io/easel-dev/easel-operator",
		"localhost/a:b":                    "localhost/a",
		"registry.test:5000/a/b":           "registry.test:5000/a/b",
		"registry.test:5000/a/b:v1@sha256:0123456789abcdef": "registry.test:5000/a/b",
	} {
		if got := Repository(reference); got != want {
			t.Errorf("Repository(%q) = %q, want %q", reference, got, want)
		}
	}
}

func TestArgv(t *testing.T) {
	image := &Image{Name: "i", Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for name, test := range map[string]struct{ command, args, want []string }{
		"the image's own entrypoint and cmd":                    {nil, nil, []string{"entry", "cmd"}},
		"the pod's args replace the cmd":                        {nil, []string{"a"}, []string{"entry", "a"}},
		"the pod's command replaces the entrypoint and the cmd": {[]string{"c"}, nil, []string{"c"}},
		"the pod's command and args replace everything":         {[]string{"c"}, []string{"a"}, []string{"c", "a"}},
	} {
		got, err := image.Argv(test.command, test.args)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, test.want)
		}
	}
	if _, err := (&Image{Name: "empty"}).Argv(nil, nil); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an image without a command: %v", err)
	}
}

func parse(t *testing.T, text string) (*Map, error) {
	t.Helper()
	return Parse([]byte(text), "images.yaml", func(name string) (string, bool) { return "/here", name == "ROOT" })
}

func TestParseExpandsVariables(t *testing.T) {
	m, err := parse(t, `images: [{name: a, entrypoint: ["$ROOT/x"], env: {PATH: "${ROOT}/bin:/bin"}, user: 65532}]`)
	if err != nil {
		t.Fatal(err)
	}
	image, err := m.Find("a:latest")
	if err != nil {
		t.Fatal(err)
	}
	if image.Entrypoint[0] != "/here/x" || image.Env["PATH"] != "/here/bin:/bin" || *image.User != 65532 {
		t.Errorf("%+v", image)
	}
}

func TestParseRefusals(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"a variable that is not set": {`images: [{name: a, workingDir: $NOWHERE}]`, "$NOWHERE is not set"},
		"an image twice":             {`images: [{name: nginx}, {name: docker.io/library/nginx}]`, "is there twice"},
		"an image without name":      {`images: [{cmd: [x]}]`, "images[0] has no name"},
		"a field that doesn't exist": {`images: [{name: a, command: [x]}]`, "command"},
	} {
		if _, err := parse(t, test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestFindNamesImageAndMap(t *testing.T) {
	m, err := parse(t, `images: [{name: a}]`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Find("b:1")
	for _, part := range []string{`"b:1"`, "docker.io/library/b", "images.yaml"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v doesn't name %s", err, part)
		}
	}
	if image, err := (*Map)(nil).Find("anything"); err != nil || image == nil {
		t.Errorf("without a map every image exists: %v", err)
	}
}
