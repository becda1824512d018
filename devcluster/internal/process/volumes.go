package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/easel-dev/easel/devcluster/internal/mounts"
)

// volumeMount is a volume with a place that is ready to be mounted on.
type volumeMount struct {
	source, target string
	readOnly       bool
}

// prepare makes the mount points of all volumes. It comes before the root is made read-only.
func (b *rootBuilder) prepare(wanted []*api.Mount) ([]volumeMount, error) {
	var out []volumeMount
	for _, m := range wanted {
		st, err := os.Stat(m.HostPath)
		if err != nil {
			return nil, err
		}
		target, err := securejoin.SecureJoin(b.stage, m.ContainerPath)
		if err != nil {
			return nil, err
		}
		if inVolume(out, target) { // lies in a volume that is mounted first: its mount point is made there, then
			out = append(out, volumeMount{m.HostPath, target, m.Readonly})
			continue
		}
		if err := b.ensure(target, st.IsDir()); err != nil {
			return nil, fmt.Errorf("mount point %s: %w", m.ContainerPath, err)
		}
		out = append(out, volumeMount{m.HostPath, target, m.Readonly})
	}
	return out, nil
}

func inVolume(earlier []volumeMount, target string) bool {
	for _, m := range earlier {
		if strings.HasPrefix(target, m.target+"/") {
			return true
		}
	}
	return false
}

func (m volumeMount) apply() error {
	st, err := os.Stat(m.source)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(m.target); err != nil {
		if err := makeMountPoint(m.target, st.IsDir()); err != nil {
			return err
		}
	}
	if err := mounts.Bind(m.source, m.target); err != nil {
		return err
	}
	if m.readOnly {
		return setReadOnly(m.target, true)
	}
	return nil
}

func makeMountPoint(path string, isDir bool) error {
	if isDir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// ensure makes a mount point under the stage without creating anything on the machine.
func (b *rootBuilder) ensure(path string, isDir bool) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	for ; strings.HasPrefix(parent, b.stage); parent = filepath.Dir(parent) {
		if _, err := os.Lstat(parent); err == nil {
			break
		}
	}
	if !b.mirrors[parent] && !b.insideMirror(parent) {
		if err := b.mirror(parent, b.scratch, nil); err != nil {
			return err
		}
		if err := b.moveScratch(parent); err != nil {
			return err
		}
	}
	return makeMountPoint(path, isDir)
}

// insideMirror says whether path is a plain directory made in a mirror: it is on the same device.
func (b *rootBuilder) insideMirror(path string) bool {
	var st, mirror unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return false
	}
	for dir := range b.mirrors {
		if strings.HasPrefix(path, dir+"/") && unix.Stat(dir, &mirror) == nil && mirror.Dev == st.Dev {
			return true
		}
	}
	return false
}

// makeReadOnly is readOnlyRootFilesystem: everything but what a real container has of its own.
func (b *rootBuilder) makeReadOnly() error {
	if err := setReadOnly(b.stage, true); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev/shm", "dev/pts"} {
		path := filepath.Join(b.stage, dir)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := setReadOnly(path, false); err != nil && err != unix.EINVAL { // no mount of its own there
			return err
		}
	}
	return nil
}

// setReadOnly changes a mount and all below it.
func setReadOnly(path string, readOnly bool) error {
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if !readOnly {
		attributes = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	}
	if err := unix.MountSetattr(-1, path, unix.AT_RECURSIVE, &attributes); err != nil {
		if err == unix.EINVAL {
			return err
		}
		return fmt.Errorf("read-only %s: %w", path, err)
	}
	return nil
}
