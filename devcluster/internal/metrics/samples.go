package metrics

import (
	"sync"
	"time"
)

// sample is a reading of a counter and a gauge.
type sample struct {
	at             time.Time
	cpuNanoseconds uint64
	memoryBytes    uint64
}

// usage is what a subject used over a window that ends at a time.
type usage struct {
	at              time.Time
	window          time.Duration
	cpuNanoPerSec   int64 // nanocores
	workingSetBytes int64
}

// subject is a node (no pod) or a container of a pod.
type subject struct{ node, namespace, pod, container string }

// history keeps the last two samples of each subject: CPU is a rate between them.
type history struct {
	mu   sync.RWMutex
	last map[subject][2]sample
}

// add replaces a node's samples by new ones; subjects that are gone are forgotten.
func (h *history) add(node string, samples map[subject]sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := map[subject][2]sample{}
	for key, pair := range h.last {
		if key.node != node {
			next[key] = pair
		}
	}
	for key, new := range samples {
		before := h.last[key][1]
		switch {
		case new.at.Equal(before.at):
			next[key] = h.last[key]
		case new.cpuNanoseconds < before.cpuNanoseconds: // it has been started anew
			next[key] = [2]sample{{}, new}
		default:
			next[key] = [2]sample{before, new}
		}
	}
	h.last = next
}

// usage is false until there are two samples.
func (h *history) usage(key subject) (usage, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return rate(h.last[key])
}

func rate(pair [2]sample) (usage, bool) {
	before, after := pair[0], pair[1]
	window := after.at.Sub(before.at)
	if before.at.IsZero() || after.at.IsZero() || window <= 0 {
		return usage{}, false
	}
	spent := float64(after.cpuNanoseconds - before.cpuNanoseconds)
	return usage{at: after.at, window: window, cpuNanoPerSec: int64(spent / window.Seconds()), workingSetBytes: int64(after.memoryBytes)}, true
}

// subjects are all those of which a predicate holds.
func (h *history) subjects(holds func(subject) bool) []subject {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var out []subject
	for key := range h.last {
		if holds(key) {
			out = append(out, key)
		}
	}
	return out
}
