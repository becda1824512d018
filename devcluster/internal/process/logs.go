package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// criLog is a container's log file in the CRI's format: time, stream, F(ull) or P(artial), text.
type criLog struct {
	mu   sync.Mutex
	file *os.File
}

// longestLine is the size at which a line is split into partial entries.
const longestLine = 16 << 10

func openLog(path string) (*criLog, error) {
	file, err := openLogFile(path)
	return &criLog{file: file}, err
}

func openLogFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// copy writes a stream until its end.
func (l *criLog) copy(from io.Reader, stream string) {
	for reader := bufio.NewReaderSize(from, longestLine); ; {
		line, err := reader.ReadSlice('\n')
		if len(line) > 0 {
			tag := "F"
			if errors.Is(err, bufio.ErrBufferFull) {
				tag = "P"
			}
			l.write(stream, tag, bytes.TrimSuffix(line, []byte("\n")))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (l *criLog) write(stream, tag string, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		fmt.Fprintf(l.file, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, line)
	}
}

// replace goes on in another file; nil closes the log.
func (l *criLog) replace(file *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = file
}

// ReopenContainerLog implements the CRI: the kubelet has moved the old file away.
func (r *Runtime) ReopenContainerLog(_ context.Context, id string) error {
	c, err := r.get(id)
	if err != nil {
		return err
	}
	file, err := openLogFile(c.logPath)
	if err != nil {
		return err
	}
	c.log.replace(file)
	return nil
}
