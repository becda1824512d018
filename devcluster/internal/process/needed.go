package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// systemDirs are open to everyone on every machine.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev", "/opt", "/var"}

// maxLinks bounds the following of a chain of symbolic links.
const maxLinks = 40

// needed are the paths of this machine that the image's programs live in: what its PATH, its
// other path-like variables, its entrypoint and its `paths` name, and where links in them lead.
// A virtual environment's interpreter, for one, is a link into another tree.
func (c *container) needed() []string {
	var roots []string
	for _, value := range c.image.Env {
		roots = append(roots, filepath.SplitList(value)...)
	}
	roots = append(roots, c.image.Paths...)
	roots = append(roots, c.image.WorkingDir, c.config.WorkingDir)
	if len(c.argv) > 0 {
		roots = append(roots, c.argv[0])
	}
	var out []string
	add := func(path string) {
		if path = filepath.Clean(path); !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	for _, root := range roots {
		if !filepath.IsAbs(root) || root == "/" || isSystem(root) {
			continue
		}
		for _, path := range resolve(root) {
			add(path)
		}
		entries, _ := os.ReadDir(root)
		for _, entry := range entries {
			if entry.Type()&os.ModeSymlink != 0 {
				for _, path := range resolve(filepath.Join(root, entry.Name())) {
					add(installation(path))
				}
			}
		}
	}
	return out
}

func isSystem(path string) bool {
	return slices.ContainsFunc(systemDirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, dir+"/")
	})
}

// installation is the tree that a program belongs to: a program in .../bin finds its libraries
// beside that directory.
func installation(path string) string {
	if dir := filepath.Dir(path); filepath.Base(dir) == "bin" {
		return filepath.Dir(dir)
	}
	return path
}

// resolve lists a path and, step by step, every path that the links on its way lead to.
func resolve(path string) []string {
	out := []string{path}
	for range maxLinks {
		next, ok := followFirstLink(path)
		if !ok {
			break
		}
		path = next
		out = append(out, path)
	}
	return out
}

func followFirstLink(path string) (string, bool) {
	parts := strings.Split(strings.TrimPrefix(filepath.Clean(path), "/"), "/")
	at := "/"
	for i, part := range parts {
		entry := filepath.Join(at, part)
		target, err := os.Readlink(entry)
		if err != nil {
			at = entry
			continue
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(at, target)
		}
		return filepath.Join(append([]string{target}, parts[i+1:]...)...), true
	}
	return "", false
}
