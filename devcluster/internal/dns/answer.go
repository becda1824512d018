// Package dns serves the cluster's names (Kubernetes' DNS specification 1.1.0)
// from Services and EndpointSlices. Nothing is forwarded: a name outside the
// cluster doesn't exist.
package dns

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// Directory looks Services up.
type Directory interface {
	// Service returns nil when there is none.
	Service(namespace, name string) *v1.Service
	EndpointSlices(namespace, service string) []*discovery.EndpointSlice
	HasNamespace(name string) bool
}

// ttlSeconds is short, as in CoreDNS's default for a cluster.
const ttlSeconds = 5

// Resolver answers questions about one domain.
type Resolver struct {
	Directory Directory
	Domain    string // without dots around it: cluster.local
}

// Answer returns the records for a question and whether the name exists at all.
func (r *Resolver) Answer(question dns.Question) (records []dns.RR, exists bool) {
	name := strings.ToLower(dns.Fqdn(question.Name))
	rest, ok := strings.CutSuffix(name, "."+r.Domain+".")
	if !ok {
		return nil, name == r.Domain+"."
	}
	labels := strings.Split(rest, ".")
	last := len(labels) - 1
	switch {
	case labels[last] == "svc" && last >= 2:
		return r.service(name, question.Qtype, labels[:last-2], labels[last-2], labels[last-1])
	case labels[last] == "svc":
		return nil, last == 0 || r.Directory.HasNamespace(labels[0])
	case labels[last] == "pod" && last == 2:
		return r.pod(name, question.Qtype, labels[0], labels[1])
	}
	return nil, labels[last] == "pod" && last == 0
}

// service answers PREFIX.NAME.NAMESPACE.svc: no prefix, a host name, or _PORT._PROTOCOL.
func (r *Resolver) service(name string, qtype uint16, prefix []string, service, namespace string) ([]dns.RR, bool) {
	object := r.Directory.Service(namespace, service)
	if object == nil {
		return nil, false
	}
	if object.Spec.Type == v1.ServiceTypeExternalName {
		if len(prefix) > 0 {
			return nil, false
		}
		return []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: dns.Fqdn(object.Spec.ExternalName)}}, true
	}
	endpoints := r.endpoints(object)
	switch len(prefix) {
	case 0:
		addresses := addressesOf(endpoints, "")
		if !isHeadless(object) {
			addresses = object.Spec.ClusterIPs
		}
		return addressRecords(name, qtype, addresses), !isHeadless(object) || len(addresses) > 0
	case 1:
		addresses := addressesOf(endpoints, prefix[0])
		if !isHeadless(object) || len(addresses) == 0 {
			return nil, false
		}
		return addressRecords(name, qtype, addresses), true
	case 2:
		return r.ports(name, qtype, object, endpoints, strings.TrimPrefix(prefix[0], "_"), strings.TrimPrefix(prefix[1], "_"))
	}
	return nil, false
}

func isHeadless(service *v1.Service) bool { return service.Spec.ClusterIP == v1.ClusterIPNone }

// endpoint is one ready address of a headless Service.
type endpoint struct {
	host, address string
	ports         []discovery.EndpointPort
}

func (r *Resolver) endpoints(service *v1.Service) []endpoint {
	if !isHeadless(service) {
		return nil
	}
	var out []endpoint
	for _, slice := range r.Directory.EndpointSlices(service.Namespace, service.Name) {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready { // true for all when publishNotReadyAddresses is set
				continue
			}
			for _, address := range e.Addresses {
				host := strings.NewReplacer(".", "-", ":", "-").Replace(address)
				if e.Hostname != nil && *e.Hostname != "" {
					host = *e.Hostname
				}
				out = append(out, endpoint{host, address, slice.Ports})
			}
		}
	}
	return out
}

// addressesOf are the distinct addresses, of one host when it is named.
func addressesOf(endpoints []endpoint, host string) []string {
	var out []string
	for _, e := range endpoints {
		if (host == "" || e.host == host) && !slices.Contains(out, e.address) {
			out = append(out, e.address)
		}
	}
	return out
}

func (r *Resolver) ports(name string, qtype uint16, service *v1.Service, endpoints []endpoint, port, protocol string) ([]dns.RR, bool) {
	var out []dns.RR
	suffix := fmt.Sprintf("%s.%s.svc.%s.", service.Name, service.Namespace, r.Domain)
	for _, p := range service.Spec.Ports {
		if !isHeadless(service) && p.Name == port && strings.EqualFold(string(p.Protocol), protocol) {
			out = append(out, serviceRecord(name, p.Port, suffix))
		}
	}
	for _, e := range endpoints {
		for _, p := range e.ports {
			if p.Name != nil && *p.Name == port && p.Protocol != nil && strings.EqualFold(string(*p.Protocol), protocol) && p.Port != nil {
				out = append(out, serviceRecord(name, *p.Port, e.host+"."+suffix))
			}
		}
	}
	if qtype != dns.TypeSRV && qtype != dns.TypeANY {
		return nil, len(out) > 0
	}
	return out, len(out) > 0
}

func serviceRecord(name string, port int32, target string) dns.RR {
	return &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: target}
}

// pod answers 10-244-1-7.NAMESPACE.pod, which names an address and proves nothing.
func (r *Resolver) pod(name string, qtype uint16, dashed, namespace string) ([]dns.RR, bool) {
	ip := net.ParseIP(strings.ReplaceAll(dashed, "-", "."))
	if ip == nil || !r.Directory.HasNamespace(namespace) {
		return nil, false
	}
	return addressRecords(name, qtype, []string{ip.String()}), true
}

// addressRecords are A records: the cluster has no IPv6, so a question for AAAA gets an answer
// without records, which is not the same as a name that doesn't exist.
func addressRecords(name string, qtype uint16, addresses []string) []dns.RR {
	if qtype != dns.TypeA && qtype != dns.TypeANY {
		return nil
	}
	var out []dns.RR
	for _, address := range addresses {
		if ip := net.ParseIP(address).To4(); ip != nil {
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: ip})
		}
	}
	return out
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttlSeconds}
}
