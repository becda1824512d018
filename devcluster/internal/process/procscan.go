package process

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procEntry is one process, as /proc tells.
type procEntry struct {
	pid, parent    int
	zombie         bool
	mounts         uint64 // inode of its mount namespace; 0 when it is not known
	cpuNanoseconds uint64 // its own and its reaped children's
	rssBytes       uint64
}

// nanosecondsPerTick: the kernel counts CPU time in /proc/PID/stat in hundredths of a second.
const nanosecondsPerTick = 10_000_000

// scan reads all processes of this PID namespace: those of this node.
func scan() []procEntry {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []procEntry
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		if entry, ok := parseStat(text); ok {
			entry.pid = pid
			entry.mounts = mountNamespace(pid)
			out = append(out, entry)
		}
	}
	return out
}

// parseStat reads the fields after the command's name, which may itself hold spaces and brackets.
func parseStat(text []byte) (procEntry, bool) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return procEntry{}, false
	}
	fields := strings.Fields(string(text[end+1:]))
	const state, parent, utime, cstime, rss = 0, 1, 11, 14, 21 // counted from the state
	if len(fields) <= rss {
		return procEntry{}, false
	}
	entry := procEntry{zombie: fields[state] == "Z"}
	entry.parent, _ = strconv.Atoi(fields[parent])
	for i := utime; i <= cstime; i++ {
		ticks, _ := strconv.ParseUint(fields[i], 10, 64)
		entry.cpuNanoseconds += ticks * nanosecondsPerTick
	}
	pages, _ := strconv.ParseUint(fields[rss], 10, 64)
	entry.rssBytes = pages * uint64(os.Getpagesize())
	return entry, true
}

func mountNamespace(pid int) uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/mnt", &st) != nil {
		return 0
	}
	return st.Ino
}

// isThisProgram says whether a process runs the program that this one runs.
func isThisProgram(pid int) bool {
	var own, other unix.Stat_t
	return unix.Stat("/proc/self/exe", &own) == nil && unix.Stat("/proc/"+strconv.Itoa(pid)+"/exe", &other) == nil &&
		own.Dev == other.Dev && own.Ino == other.Ino
}

// killAll ends every process in a mount namespace. A process that forks while the others are
// being killed is caught by the next round.
func killAll(mounts uint64) {
	const rounds = 20
	for range rounds {
		found := false
		for _, entry := range scan() {
			if entry.mounts == mounts && !entry.zombie {
				found = true
				_ = syscall.Kill(entry.pid, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}
