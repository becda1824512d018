// Package image maps the images that pods name to programs of this machine:
// what an image's own configuration says (entrypoint, command, environment,
// user) is read from a file, and nothing is ever pulled.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// Image is what a registry would serve as the image's configuration.
type Image struct {
	Name       string            `json:"name"` // the repository, without tag or digest
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	User       *int64            `json:"user,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	// Paths are further directories of this machine that the image's programs need, for
	// those that lie below a directory which the container's user may not enter.
	Paths []string `json:"paths,omitempty"`
}

// Map is every image that exists. A nil Map holds all images, each empty.
type Map struct {
	Images []Image `json:"images"`
	Source string  `json:"source,omitempty"` // the file, for messages
}

// Parse reads the file's text and expands $VAR and ${VAR} by getenv.
func Parse(text []byte, source string, lookup func(string) (string, bool)) (*Map, error) {
	m := &Map{}
	if err := yaml.UnmarshalStrict(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	m.Source = source
	seen := map[string]bool{}
	for i := range m.Images {
		image := &m.Images[i]
		if image.Name == "" {
			return nil, fmt.Errorf("%s: images[%d] has no name", source, i)
		}
		image.Name = Repository(image.Name)
		if seen[image.Name] {
			return nil, fmt.Errorf("%s: %s is there twice", source, image.Name)
		}
		seen[image.Name] = true
		if err := image.expand(lookup); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", source, image.Name, err)
		}
	}
	return m, nil
}

func (i *Image) expand(lookup func(string) (string, bool)) error {
	var missing []string
	expand := func(text string) string {
		return os.Expand(text, func(name string) string {
			value, ok := lookup(name)
			if !ok {
				missing = append(missing, "$"+name)
			}
			return value
		})
	}
	for _, list := range [][]string{i.Entrypoint, i.Cmd, i.Paths} {
		for n := range list {
			list[n] = expand(list[n])
		}
	}
	for name, value := range i.Env {
		i.Env[name] = expand(value)
	}
	i.WorkingDir = expand(i.WorkingDir)
	if missing != nil {
		return fmt.Errorf("%s is not set in the environment", strings.Join(missing, ", "))
	}
	return nil
}

// Save and Load keep the expanded map in the state directory.
func (m *Map) Save(path string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// Load returns a nil map when there is no file.
func Load(path string) (*Map, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &Map{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return m, nil
}

// Find returns the image that a reference names, or an error that says where it was looked for.
func (m *Map) Find(reference string) (*Image, error) {
	repository := Repository(reference)
	if m == nil {
		return &Image{Name: repository}, nil
	}
	for i := range m.Images {
		if m.Images[i].Name == repository {
			return &m.Images[i], nil
		}
	}
	return nil, fmt.Errorf("image %q (repository %s) is not in the image map %s: add it there, or correct the pod's image",
		reference, repository, m.Source)
}

// Repository is a reference without tag and digest, in the long form that containerd uses:
// nginx:1.27 → docker.io/library/nginx.
func Repository(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if slash, colon := strings.LastIndex(name, "/"), strings.LastIndex(name, ":"); colon > slash {
		name = name[:colon]
	}
	host, rest, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", name
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return host + "/" + rest
}

// Argv is the command line of a container: the pod's command replaces the entrypoint and, with
// it, the image's cmd; the pod's args replace the cmd.
func (i *Image) Argv(command, args []string) ([]string, error) {
	entrypoint, cmd := i.Entrypoint, i.Cmd
	if len(command) > 0 {
		entrypoint, cmd = command, nil
	}
	if len(args) > 0 {
		cmd = args
	}
	argv := append(append([]string{}, entrypoint...), cmd...)
	if len(argv) == 0 {
		return nil, fmt.Errorf("no command: neither the pod nor the image %s names one", i.Name)
	}
	return argv, nil
}
