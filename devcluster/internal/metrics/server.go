// Package metrics serves metrics.k8s.io: the CPU and memory use of pods and
// nodes, as the kubelets report it, for `kubectl top` and for autoscaling.
package metrics

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/easel-dev/easel/devcluster/internal/pki"
)

const (
	// ServiceName is the Service in kube-system that the API server reaches this server by.
	ServiceName = "metrics"
	// scrapeInterval is also the window over which CPU use is averaged.
	scrapeInterval = 10 * time.Second
	scrapeTimeout  = 5 * time.Second
)

// Server is an aggregated API server.
type Server struct {
	Kube                                kubernetes.Interface
	Config                              *rest.Config
	Address                             string
	CertFile, KeyFile, FrontProxyCA, CA string
	history                             history
	pods                                corelisters.PodLister
	nodes                               corelisters.NodeLister
}

// Start scrapes and serves until the context ends.
func (s *Server) Start(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(s.Kube, 0)
	s.pods, s.nodes = factory.Core().V1().Pods().Lister(), factory.Core().V1().Nodes().Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: scrapeTimeout}
	go func() { klog.ErrorS(server.Serve(tls.NewListener(listener, tlsConfig)), "metrics API ended") }()
	go s.scrapeForever(ctx)
	return nil
}

// tlsConfig admits the API server only. It has authenticated and authorized the user already, so
// there is nothing left to check here.
func (s *Server) tlsConfig() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.FrontProxyCA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		VerifyConnection: func(state tls.ConnectionState) error {
			if name := state.PeerCertificates[0].Subject.CommonName; name != pki.FrontProxyUser {
				return fmt.Errorf("client %q is not the API server", name)
			}
			return nil
		},
	}, nil
}

func (s *Server) scrapeForever(ctx context.Context) {
	ticker := time.NewTicker(scrapeInterval)
	defer ticker.Stop()
	for {
		s.scrapeAll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Server) scrapeAll(ctx context.Context) {
	nodes, err := s.Kube.CoreV1().Nodes().List(ctx, everything)
	if err != nil {
		klog.ErrorS(err, "no list of nodes")
		return
	}
	for _, node := range nodes.Items {
		if node.Status.DaemonEndpoints.KubeletEndpoint.Port == 0 {
			continue // simulated: there is no kubelet to ask
		}
		samples, err := s.scrape(ctx, node.Name)
		if err != nil {
			klog.V(2).InfoS("no metrics", "node", node.Name, "err", err)
			samples = nil // a dead node's figures don't live on
		}
		s.history.add(node.Name, samples)
	}
}

// scrape asks a kubelet, by way of the API server, which checks the kubelet's certificate.
func (s *Server) scrape(ctx context.Context, node string) (map[subject]sample, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	text, err := s.Kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", node, "proxy/stats/summary").
		Param("only_cpu_and_memory", "true").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	summary := &stats.Summary{}
	if err := json.Unmarshal(text, summary); err != nil {
		return nil, err
	}
	return toSamples(node, summary), nil
}

func toSamples(node string, summary *stats.Summary) map[subject]sample {
	out := map[subject]sample{}
	if s, ok := toSample(summary.Node.CPU, summary.Node.Memory); ok {
		out[subject{node: node}] = s
	}
	for _, pod := range summary.Pods {
		for _, container := range pod.Containers {
			if s, ok := toSample(container.CPU, container.Memory); ok {
				out[subject{node, pod.PodRef.Namespace, pod.PodRef.Name, container.Name}] = s
			}
		}
	}
	return out
}

func toSample(cpu *stats.CPUStats, memory *stats.MemoryStats) (sample, bool) {
	if cpu == nil || cpu.UsageCoreNanoSeconds == nil || memory == nil || memory.WorkingSetBytes == nil {
		return sample{}, false
	}
	return sample{at: cpu.Time.Time, cpuNanoseconds: *cpu.UsageCoreNanoSeconds, memoryBytes: *memory.WorkingSetBytes}, true
}
