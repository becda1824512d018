package dns

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/klog/v2"
)

// Server serves a Resolver over UDP and TCP.
type Server struct{ resolver *Resolver }

// Start watches the cluster and begins to serve on address.
func Start(ctx context.Context, client kubernetes.Interface, address, domain string) (*Server, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	d := &directory{ // asking for a lister registers its informer: before Start
		services:   factory.Core().V1().Services().Lister(),
		slices:     factory.Discovery().V1().EndpointSlices().Lister(),
		namespaces: factory.Core().V1().Namespaces().Lister(),
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil, fmt.Errorf("no list of %s", kind)
		}
	}
	s := &Server{resolver: &Resolver{Directory: d, Domain: domain}}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: listener, Handler: s}} {
		go func() { klog.ErrorS(server.ActivateAndServe(), "DNS server ended") }()
	}
	return s, nil
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	reply.RecursionAvailable = true // else some resolvers warn; what is not ours doesn't exist
	if len(request.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
	} else {
		records, exists := s.resolver.Answer(request.Question[0])
		reply.Authoritative, reply.Answer = true, records
		if !exists {
			reply.Rcode = dns.RcodeNameError
		}
		if len(records) == 0 {
			reply.Ns = []dns.RR{s.authority()}
		}
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if options := request.IsEdns0(); options != nil {
			size = max(size, int(options.UDPSize()))
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply)
}

// authority tells clients how long a missing name may be remembered.
func (s *Server) authority() dns.RR {
	zone := s.resolver.Domain + "."
	return &dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns.dns." + zone, Mbox: "hostmaster." + zone,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttlSeconds}
}

// Check asks the server at address for the API server's name.
func (s *Server) Check(address string) error {
	client := &dns.Client{Timeout: time.Second}
	question := new(dns.Msg).SetQuestion("kubernetes.default.svc."+s.resolver.Domain+".", dns.TypeA)
	reply, _, err := client.Exchange(question, address)
	if err != nil {
		return err
	}
	if len(reply.Answer) == 0 {
		return fmt.Errorf("%s answers %s", address, dns.RcodeToString[reply.Rcode])
	}
	return nil
}

type directory struct {
	services   corelisters.ServiceLister
	slices     discoverylisters.EndpointSliceLister
	namespaces corelisters.NamespaceLister
}

func (d *directory) Service(namespace, name string) *v1.Service {
	service, err := d.services.Services(namespace).Get(name)
	if err != nil {
		return nil
	}
	return service
}

func (d *directory) EndpointSlices(namespace, service string) []*discovery.EndpointSlice {
	slices, _ := d.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service}))
	return slices
}

func (d *directory) HasNamespace(name string) bool {
	_, err := d.namespaces.Get(name)
	return err == nil
}
