package dns

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

type fixture struct{}

func (fixture) HasNamespace(name string) bool { return name == "shop" }

func (fixture) Service(namespace, name string) *v1.Service {
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	ports := []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}}
	switch namespace + "/" + name {
	case "shop/web":
		service.Spec = v1.ServiceSpec{ClusterIP: "10.96.1.1", ClusterIPs: []string{"10.96.1.1"}, Ports: ports}
	case "shop/db", "shop/none":
		service.Spec = v1.ServiceSpec{ClusterIP: v1.ClusterIPNone, Ports: ports}
	case "shop/out":
		service.Spec = v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: "example.test"}
	default:
		return nil
	}
	return service
}

func (fixture) EndpointSlices(_, service string) []*discovery.EndpointSlice {
	if service != "db" {
		return nil
	}
	tcp := v1.ProtocolTCP
	return []*discovery.EndpointSlice{{
		Ports: []discovery.EndpointPort{{Name: ptr.To("http"), Protocol: &tcp, Port: ptr.To[int32](8080)}},
		Endpoints: []discovery.Endpoint{
			{Addresses: []string{"10.244.1.2"}, Hostname: ptr.To("db-0"), Conditions: discovery.EndpointConditions{Ready: ptr.To(true)}},
			{Addresses: []string{"10.244.2.2"}, Conditions: discovery.EndpointConditions{}},
			{Addresses: []string{"10.244.3.2"}, Conditions: discovery.EndpointConditions{Ready: ptr.To(false)}},
		},
	}}
}

func TestAnswer(t *testing.T) {
	resolver := &Resolver{Directory: fixture{}, Domain: "cluster.local"}
	for name, test := range map[string]struct {
		question string
		kind     uint16
		want     []string // what follows the record's type
		missing  bool
	}{
		"a Service's cluster IP":                     {"web.shop.svc.cluster.local.", dns.TypeA, []string{"10.96.1.1"}, false},
		"names don't depend on case":                 {"WEB.Shop.svc.cluster.LOCAL.", dns.TypeA, []string{"10.96.1.1"}, false},
		"no IPv6, but the name exists":               {"web.shop.svc.cluster.local.", dns.TypeAAAA, nil, false},
		"a headless Service's ready pods":            {"db.shop.svc.cluster.local.", dns.TypeA, []string{"10.244.1.2", "10.244.2.2"}, false},
		"a pod by its host name":                     {"db-0.db.shop.svc.cluster.local.", dns.TypeA, []string{"10.244.1.2"}, false},
		"a pod by its dashed address":                {"10-244-2-2.db.shop.svc.cluster.local.", dns.TypeA, []string{"10.244.2.2"}, false},
		"a pod that isn't ready":                     {"10-244-3-2.db.shop.svc.cluster.local.", dns.TypeA, nil, true},
		"a headless Service without pods":            {"none.shop.svc.cluster.local.", dns.TypeA, nil, true},
		"a host name of a Service with a cluster IP": {"db-0.web.shop.svc.cluster.local.", dns.TypeA, nil, true},
		"a named port":                               {"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, []string{"0 100 80 web.shop.svc.cluster.local."}, false},
		"a headless Service's named port": {"_http._tcp.db.shop.svc.cluster.local.", dns.TypeSRV,
			[]string{"0 100 8080 db-0.db.shop.svc.cluster.local.", "0 100 8080 10-244-2-2.db.shop.svc.cluster.local."}, false},
		"a port of another protocol":        {"_http._udp.web.shop.svc.cluster.local.", dns.TypeSRV, nil, true},
		"an external name":                  {"out.shop.svc.cluster.local.", dns.TypeA, []string{"example.test."}, false},
		"no such Service":                   {"nope.shop.svc.cluster.local.", dns.TypeA, nil, true},
		"a namespace, which has no records": {"shop.svc.cluster.local.", dns.TypeA, nil, false},
		"no such namespace":                 {"nope.svc.cluster.local.", dns.TypeA, nil, true},
		"a pod's dashed address":            {"10-244-1-9.shop.pod.cluster.local.", dns.TypeA, []string{"10.244.1.9"}, false},
		"the world outside":                 {"example.com.", dns.TypeA, nil, true},
		"a name that ends like ours":        {"web.shop.svc.notcluster.local.", dns.TypeA, nil, true},
	} {
		records, exists := resolver.Answer(dns.Question{Name: test.question, Qtype: test.kind})
		var got []string
		for _, record := range records {
			got = append(got, strings.TrimPrefix(record.String(), record.Header().String()))
		}
		if !slices.Equal(got, test.want) || exists == test.missing {
			t.Errorf("%s: %q, exists %v; want %q", name, got, exists, test.want)
		}
	}
}
