package node

import (
	"context"
	"runtime"
	"time"

	cadvisor "github.com/google/cadvisor/lib/model"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"

	"github.com/easel-dev/easel/devcluster/internal/process"
)

// machine stands in for cAdvisor: the machine's true size, and usage from /proc. There are no
// control groups to collect.
type machine struct {
	cadvisortest.Fake
	root    string
	runtime *process.Runtime
	started time.Time
}

func (m *machine) MachineInfo(klog.Logger) (*cadvisor.MachineInfo, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	return &cadvisor.MachineInfo{
		NumCores: runtime.NumCPU(), MemoryCapacity: info.Totalram * uint64(info.Unit),
		MachineID: m.NodeName, SystemUUID: m.NodeName,
		BootID: m.NodeName + m.started.UTC().Format(time.RFC3339), // a restarted node has booted
	}, nil
}

func (m *machine) VersionInfo() (*cadvisor.VersionInfo, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	return &cadvisor.VersionInfo{KernelVersion: unix.ByteSliceToString(name.Release[:]), ContainerOsVersion: "devcluster"}, nil
}

// ContainerInfoV2 knows the root only, which stands for the whole node.
func (m *machine) ContainerInfoV2(string, cadvisor.RequestOptions) (map[string]cadvisor.ContainerInfo, error) {
	cpu, rss := m.runtime.NodeUsage()
	stats := &cadvisor.ContainerStats{
		Timestamp: time.Now(),
		Cpu:       &cadvisor.CpuStats{Usage: cadvisor.CpuUsage{Total: cpu}},
		Memory:    &cadvisor.MemoryStats{Usage: rss, WorkingSet: rss, RSS: rss},
	}
	return map[string]cadvisor.ContainerInfo{"/": {
		ContainerReference: cadvisor.ContainerReference{Name: "/"},
		Spec:               cadvisor.ContainerSpec{CreationTime: m.started, HasCpu: true, HasMemory: true},
		Stats:              []*cadvisor.ContainerStats{stats},
	}}, nil
}

func (m *machine) filesystem() (cadvisor.FsInfo, error) {
	var st unix.Statfs_t
	err := unix.Statfs(m.root, &st)
	inodes, free, size := st.Files, st.Ffree, uint64(st.Bsize)
	return cadvisor.FsInfo{
		Timestamp: time.Now(), Mountpoint: m.root, Capacity: st.Blocks * size, Available: st.Bavail * size,
		Usage: (st.Blocks - st.Bfree) * size, Inodes: &inodes, InodesFree: &free,
	}, err
}

func (m *machine) ImagesFsInfo(context.Context) (cadvisor.FsInfo, error)    { return m.filesystem() }
func (m *machine) RootFsInfo() (cadvisor.FsInfo, error)                     { return m.filesystem() }
func (m *machine) ContainerFsInfo(context.Context) (cadvisor.FsInfo, error) { return m.filesystem() }
func (m *machine) GetDirFsInfo(string) (cadvisor.FsInfo, error)             { return m.filesystem() }
