package pki

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Cluster says for whom certificates are made.
type Cluster struct {
	// Dir receives the certificates, each as NAME.crt and NAME.key.
	Dir string
	// APIServerHosts are the names and addresses that clients use for the API server.
	APIServerHosts []string
	// Nodes maps each node's name to its address.
	Nodes map[string]string
	// Services maps a file name to the DNS names of an aggregated API served by the supervisor.
	Services map[string][]string
}

// FrontProxyUser is the one name the API server uses towards aggregated API servers.
const FrontProxyUser = "front-proxy-client"

// clients of the API server, and the API server as a client of the kubelets.
// The users are those that Kubernetes' built-in RBAC rules are bound to.
var clients = map[string]Subject{
	"admin":                    {User: "kubernetes-admin", Groups: []string{"system:masters"}},
	"supervisor":               {User: "devcluster-supervisor", Groups: []string{"system:masters"}},
	"apiserver-kubelet-client": {User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
	"controller-manager":       {User: "system:kube-controller-manager"},
	"scheduler":                {User: "system:kube-scheduler"},
	"kube-proxy":               {User: "system:kube-proxy"},
}

// Write makes every authority, certificate and key of a cluster.
func (c Cluster) Write(now time.Time) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	ca, err := NewAuthority("devcluster", now)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "ca.crt"), ca.CertPEM, 0o644); err != nil {
		return err
	}
	if err := c.writeServers(ca, now); err != nil {
		return err
	}
	if err := c.writeClients(ca, now); err != nil {
		return err
	}
	if err := c.writeFrontProxy(now); err != nil {
		return err
	}
	key, err := SigningKey()
	if err != nil {
		return err
	}
	return key.Write(c.Dir, "service-account")
}

func (c Cluster) writeServers(ca *Authority, now time.Time) error {
	servers := map[string]struct {
		who   Subject
		hosts []string
	}{"apiserver": {Subject{User: "kube-apiserver"}, c.APIServerHosts}}
	for name, address := range c.Nodes {
		servers["kubelet-server-"+name] = struct {
			who   Subject
			hosts []string
		}{Subject{User: "system:node:" + name, Groups: []string{"system:nodes"}}, []string{name, address}}
	}
	for name, hosts := range c.Services {
		servers[name] = struct {
			who   Subject
			hosts []string
		}{Subject{User: name}, hosts}
	}
	for name, server := range servers {
		pair, err := ca.Server(server.who, server.hosts, now)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", name, err)
		}
		if err := pair.Write(c.Dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (c Cluster) writeClients(ca *Authority, now time.Time) error {
	all := map[string]Subject{}
	for name, who := range clients {
		all[name] = who
	}
	for name := range c.Nodes {
		all["kubelet-"+name] = Subject{User: "system:node:" + name, Groups: []string{"system:nodes"}}
	}
	for name, who := range all {
		pair, err := ca.Client(who, now)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", name, err)
		}
		if err := pair.Write(c.Dir, name); err != nil {
			return err
		}
	}
	return nil
}

// writeFrontProxy makes the API server's identity towards aggregated API servers. It has an
// authority of its own: whoever holds a certificate of it may speak in anyone's name.
func (c Cluster) writeFrontProxy(now time.Time) error {
	ca, err := NewAuthority("devcluster-front-proxy", now)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "front-proxy-ca.crt"), ca.CertPEM, 0o644); err != nil {
		return err
	}
	pair, err := ca.Client(Subject{User: FrontProxyUser}, now)
	if err != nil {
		return err
	}
	return pair.Write(c.Dir, "front-proxy-client")
}

// WriteKubeconfig writes a kubeconfig file, readable by its owner only, that verifies the server
// by the cluster's authority and proves who the client is by the certificate NAME.crt.
func (c Cluster) WriteKubeconfig(path, server, name string) error {
	data := map[string]string{}
	for field, file := range map[string]string{
		"certificate-authority-data": "ca.crt", "client-certificate-data": name + ".crt", "client-key-data": name + ".key",
	} {
		content, err := os.ReadFile(filepath.Join(c.Dir, file))
		if err != nil {
			return fmt.Errorf("kubeconfig for %s: %w", name, err)
		}
		data[field] = base64.StdEncoding.EncodeToString(content)
	}
	type entry map[string]any
	config := entry{
		"apiVersion": "v1", "kind": "Config", "current-context": "devcluster",
		"clusters": []entry{{"name": "devcluster", "cluster": entry{
			"server": server, "certificate-authority-data": data["certificate-authority-data"]}}},
		"users": []entry{{"name": name, "user": entry{
			"client-certificate-data": data["client-certificate-data"], "client-key-data": data["client-key-data"]}}},
		"contexts": []entry{{"name": "devcluster", "context": entry{"cluster": "devcluster", "user": name}}},
	}
	text, err := json.MarshalIndent(config, "", "  ") // JSON is YAML
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
