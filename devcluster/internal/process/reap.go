package process

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// reapInterval is how long an orphan may stay a zombie, about.
const reapInterval = 5 * time.Second

// ReapOrphans is for the first process of a PID namespace, which inherits every orphan. It
// collects a zombie only when it has been one for a whole interval: those that a part of this
// program waits for are collected at once by that part.
func ReapOrphans(ctx context.Context) {
	if os.Getpid() != 1 {
		return
	}
	ticker := time.NewTicker(reapInterval)
	defer ticker.Stop()
	for before := map[int]bool{}; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := map[int]bool{}
		for _, entry := range scan() {
			if entry.zombie && entry.parent == 1 {
				now[entry.pid] = true
			}
		}
		for pid := range now {
			if before[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
		before = now
	}
}
