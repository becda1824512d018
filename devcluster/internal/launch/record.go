package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// downTimeout bounds the wait for the kernel to end everything.
const downTimeout = 30 * time.Second

// record says which process is a cluster's supervisor. The start time tells it from a later
// process that was given the same number.
type record struct {
	PID       int    `json:"pid"`
	StartTime string `json:"startTime"`
}

func recordPath(dir string) string { return filepath.Join(dir, "supervisor.json") }

func writeRecord(dir string, pid int) error {
	start, ok := startTime(pid)
	if !ok {
		return errors.New("the supervisor ended at once; see " + supervisorLog(dir))
	}
	text, err := json.Marshal(record{PID: pid, StartTime: start})
	if err != nil {
		return err
	}
	return os.WriteFile(recordPath(dir), text, 0o644)
}

// findSupervisor returns the running supervisor of a state directory.
func findSupervisor(dir string) (record, bool) {
	var r record
	text, err := os.ReadFile(recordPath(dir))
	if err != nil || json.Unmarshal(text, &r) != nil {
		return r, false
	}
	start, ok := startTime(r.PID)
	return r, ok && start == r.StartTime
}

// startTime is a process's start in clock ticks since boot; false when it has ended.
func startTime(pid int) (string, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	const state, start = 0, 19 // counted after the command's name
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) <= start || fields[state] == "X" {
		return "", false
	}
	if fields[state] == "Z" && !hasOtherThreads(pid) {
		return "", false // ended, and not reaped by whoever should
	}
	return fields[start], true
}

// hasOtherThreads is true while any thread but the first is left. A process whose first thread has ended reads as a
// zombie although the others still end; it's the last of them that waits for the end of its namespace's processes.
func hasOtherThreads(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

func down(dir string) error {
	running, up := findSupervisor(dir)
	if up {
		// SIGKILL to the first process of the namespaces: the kernel kills and reaps all the others
		// before that process is gone.
		if err := unix.Kill(running.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending the supervisor (pid %d): %w", running.PID, err)
		}
		for deadline := time.Now().Add(downTimeout); ; time.Sleep(20 * time.Millisecond) {
			if _, still := findSupervisor(dir); !still {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("the supervisor (pid %d) survives SIGKILL", running.PID)
			}
		}
	}
	if config.Claimed(dir) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if up {
		fmt.Println("down")
	} else {
		fmt.Println("not up")
	}
	return nil
}
