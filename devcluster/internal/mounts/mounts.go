// Package mounts holds the few mount operations that the supervisor and the
// container runtime share. They change the calling thread's mount namespace.
package mounts

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Bind shows a file or directory, and what is mounted below it, at another place.
func Bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", from, to, err)
	}
	return nil
}

// Show makes one entry of a directory visible at a place that doesn't exist yet.
func Show(from, to string) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case st.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case st.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return err
		}
	}
	return Bind(from, to)
}

// ShowAll shows entries of a directory in another one. Those that have gone meanwhile are left out.
func ShowAll(source, target string, names []string) error {
	for _, name := range names {
		if err := Show(filepath.Join(source, name), filepath.Join(target, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// Names are the entries of a directory.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, err
}

// Own detaches the mount namespace from the one it was copied from and shows the PID namespace's
// own processes in /proc.
func Own() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
