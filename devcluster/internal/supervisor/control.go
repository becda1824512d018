package supervisor

import (
	"encoding/json"
	"net"
	"net/http"
	"os"

	"k8s.io/klog/v2"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// serveControl answers the command line's questions and orders on a socket in the state directory.
func (s *Supervisor) serveControl() error {
	dir, err := os.Open(s.cluster.StateDir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", config.SocketPath(dir)) // dir stays open: the path goes through it
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.components.status())
	})
	mux.HandleFunc("POST /nodes/{name}/kill", s.nodeAction(func(name string) error {
		return s.components.kill(kubeletTitle(name))
	}))
	mux.HandleFunc("POST /nodes/{name}/restart", s.nodeAction(func(name string) error {
		_ = s.components.kill(kubeletTitle(name)) // it may have been killed before
		return s.startKubelet(name)
	}))
	mux.HandleFunc("POST /components/{name}/kill", s.action(s.components.has, s.components.kill))
	mux.HandleFunc("POST /components/{name}/restart", s.action(s.components.has, s.components.restart))
	go func() { klog.ErrorS(http.Serve(listener, mux), "control socket ended") }()
	return nil
}

func (s *Supervisor) nodeAction(do func(name string) error) http.HandlerFunc {
	return s.action(func(name string) error {
		_, err := s.cluster.Node(name)
		return err
	}, do)
}

// action does something to what a request names, if it is there.
func (s *Supervisor) action(find, do func(name string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if err := find(name); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
		} else if err := do(name); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	}
}
