package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/easel-dev/easel/devcluster/internal/mounts"
)

// enterNew moves the calling (locked) thread into the namespaces of a new container: the pod's
// network, its host name, and a root that shows the machine's files with the container's volumes
// over them. The machine's own tree is never changed.
func (r *Runtime) enterNew(c *container) error {
	if network := c.sandbox.network; network != nil {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if name := c.sandbox.config.Hostname; name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	b := &rootBuilder{stage: r.stageDir(), scratch: r.scratchDir(), mirrors: map[string]bool{}}
	if err := b.build(c); err != nil {
		return err
	}
	if err := unix.Chdir(b.stage); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// rootBuilder assembles a container's root under stage. Paths that it mounts on are made in
// "mirrors": tmpfs directories that show some entries of the directory they cover.
type rootBuilder struct {
	stage, scratch string
	mirrors        map[string]bool
}

func (b *rootBuilder) build(c *container) error {
	if err := b.mirror("/", b.stage, nil); err != nil {
		return err
	}
	if err := b.mountPrivate(c.needed()); err != nil {
		return err
	}
	if c.uid() != 0 {
		if err := b.openUp(c.needed()); err != nil {
			return err
		}
	}
	volumes, err := b.prepare(c.allMounts())
	if err != nil {
		return err
	}
	if c.config.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		if err := b.makeReadOnly(); err != nil {
			return err
		}
	}
	for _, m := range volumes {
		if m.target == filepath.Join(b.stage, "tmp") && !m.readOnly {
			err = b.coverTmp(m, firstNames("/tmp", c.needed()))
		} else {
			err = m.apply()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// coverTmp mounts a volume on /tmp and keeps visible there what the image's programs need of the
// machine's /tmp, since a checkout may lie in it. Empty directories of these names stay in the volume.
func (b *rootBuilder) coverTmp(volume volumeMount, needed []string) error {
	if err := mounts.Bind(volume.source, b.scratch); err != nil {
		return err
	}
	for _, name := range needed {
		if err := moveEntry(filepath.Join(volume.target, name), filepath.Join(b.scratch, name)); err != nil {
			return err
		}
	}
	if err := unix.Mount(b.scratch, volume.target, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move to %s: %w", volume.target, err)
	}
	return nil
}

// moveEntry moves the mount of a mirror's entry; what isn't a directory, or has gone, is left out.
func moveEntry(from, to string) error {
	if st, err := os.Lstat(from); err != nil || !st.IsDir() {
		return nil //nolint:nilerr // nothing to show
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	return nil
}

func (c *container) allMounts() []*api.Mount {
	all := slices.Clone(c.config.Mounts)
	if c.sandbox.resolvConf != "" {
		all = append(all, &api.Mount{HostPath: c.sandbox.resolvConf, ContainerPath: "/etc/resolv.conf"})
	}
	slices.SortStableFunc(all, func(a, b *api.Mount) int { return len(a.ContainerPath) - len(b.ContainerPath) })
	return all
}

// mountPrivate gives the container its own /tmp, /dev and /dev/shm. What the image's programs
// need of the machine's /tmp stays visible there.
func (b *rootBuilder) mountPrivate(needed []string) error {
	if err := b.cover("/tmp", firstNames("/tmp", needed), 0o1777); err != nil {
		return err
	}
	devices := []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "fd", "stdin", "stdout", "stderr"}
	for _, pattern := range []string{"nvidia*", "dri", "kfd"} {
		found, _ := filepath.Glob("/dev/" + pattern)
		for _, path := range found {
			devices = append(devices, filepath.Base(path))
		}
	}
	if err := b.cover("/dev", devices, 0o755); err != nil {
		return err
	}
	return b.tmpfs(filepath.Join(b.stage, "dev/shm"), 0o1777)
}

func (b *rootBuilder) tmpfs(path string, mode uint32) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=%o", mode)); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", path, err)
	}
	return nil
}

// openUp lets a user other than root reach the needed paths through directories that are closed
// to others, such as root's home: the container sees these as directories that hold the needed
// entries and nothing else.
func (b *rootBuilder) openUp(needed []string) error {
	closed := map[string]bool{}
	for _, path := range needed {
		for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
			if st, err := os.Stat(dir); err == nil && st.Mode()&0o001 == 0 {
				closed[dir] = true
			}
		}
	}
	var dirs []string
	for dir := range closed {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs) // a parent before what lies in it
	for _, dir := range dirs {
		if err := b.cover(dir, firstNames(dir, needed), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// firstNames are the entries of dir that the paths go through.
func firstNames(dir string, paths []string) []string {
	var names []string
	for _, path := range paths {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// cover puts a mirror with the given entries over a directory of the stage.
func (b *rootBuilder) cover(dir string, names []string, mode uint32) error {
	target := filepath.Join(b.stage, dir)
	if _, err := os.Stat(target); err != nil {
		return nil //nolint:nilerr // this machine has no such directory
	}
	if names == nil {
		names = []string{}
	}
	if err := b.mirror(dir, b.scratch, names); err != nil {
		return err
	}
	if err := os.Chmod(b.scratch, os.FileMode(mode&0o777)|stickyBit(mode)); err != nil {
		return err
	}
	return b.moveScratch(target)
}

func stickyBit(mode uint32) os.FileMode {
	if mode&0o1000 != 0 {
		return os.ModeSticky
	}
	return 0
}

func (b *rootBuilder) moveScratch(target string) error {
	delete(b.mirrors, b.scratch)
	if err := unix.Mount(b.scratch, target, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move to %s: %w", target, err)
	}
	b.mirrors[target] = true
	return nil
}

// mirror mounts a tmpfs at target that shows entries of source: the given names, or all when
// names is nil. Further names can be added to it.
func (b *rootBuilder) mirror(source, target string, names []string) error {
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", target, err)
	}
	if err := unix.Mount("", target, "", unix.MS_UNBINDABLE, ""); err != nil { // keeps it out of the recursive binds below
		return err
	}
	b.mirrors[target] = true
	if names == nil {
		var err error
		if names, err = mounts.Names(source); err != nil {
			return err
		}
	}
	return mounts.ShowAll(source, target, names)
}
