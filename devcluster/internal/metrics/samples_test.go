package metrics

import (
	"testing"
	"time"
)

func TestUsageIsTheRateBetweenTwoSamples(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds int, cpu uint64) map[subject]sample {
		return map[subject]sample{{node: "n", pod: "p"}: {at: start.Add(time.Duration(seconds) * time.Second), cpuNanoseconds: cpu, memoryBytes: 7}}
	}
	key := subject{node: "n", pod: "p"}
	var h history
	if _, ok := h.usage(key); ok {
		t.Error("a subject that was never seen has a usage")
	}
	h.add("n", at(0, 5e9))
	if _, ok := h.usage(key); ok {
		t.Error("one sample makes no rate")
	}
	h.add("n", at(10, 10e9))
	if got, ok := h.usage(key); !ok || got.cpuNanoPerSec != 5e8 || got.window != 10*time.Second || got.workingSetBytes != 7 {
		t.Errorf("half a core: %+v", got)
	}
	h.add("other", nil)
	if _, ok := h.usage(key); !ok {
		t.Error("another node's samples took ours away")
	}
	h.add("n", at(20, 1e9))
	if _, ok := h.usage(key); ok {
		t.Error("a counter that fell was read as a rate: the container was started anew")
	}
	h.add("n", nil)
	if _, ok := h.usage(key); ok {
		t.Error("a subject that is gone has a usage")
	}
}
