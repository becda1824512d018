package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var now = time.Now()

func writeCluster(t *testing.T) Cluster {
	t.Helper()
	c := Cluster{
		Dir: t.TempDir(), APIServerHosts: []string{"127.0.0.1", "localhost", "10.96.0.1", "kubernetes.default.svc"},
		Nodes: map[string]string{"gpu-0": "192.168.77.11"}, Services: map[string][]string{"metrics": {"metrics.kube-system.svc"}},
	}
	if err := c.Write(now); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c Cluster) certificate(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, name+".crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (c Cluster) pool(t *testing.T, name string) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(c.certificate(t, name))
	return pool
}

func TestServersAreVerifiedByEveryNameTheyAreReachedBy(t *testing.T) {
	c := writeCluster(t)
	for name, hosts := range map[string][]string{
		"apiserver": c.APIServerHosts, "kubelet-server-gpu-0": {"gpu-0", "192.168.77.11"}, "metrics": {"metrics.kube-system.svc"},
	} {
		certificate := c.certificate(t, name)
		for _, host := range hosts {
			if err := certificate.VerifyHostname(host); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		options := x509.VerifyOptions{Roots: c.pool(t, "ca"), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := certificate.Verify(options); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := certificate.VerifyHostname("elsewhere.test"); err == nil {
			t.Errorf("%s is good for any host", name)
		}
	}
}

func TestClientsAreWhoRBACExpects(t *testing.T) {
	c := writeCluster(t)
	for name, want := range map[string]Subject{
		"admin": {"kubernetes-admin", []string{"system:masters"}}, "kubelet-gpu-0": {"system:node:gpu-0", []string{"system:nodes"}},
		"scheduler": {"system:kube-scheduler", nil},
	} {
		certificate := c.certificate(t, name)
		options := x509.VerifyOptions{Roots: c.pool(t, "ca"), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if _, err := certificate.Verify(options); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := certificate.Subject; got.CommonName != want.User || len(got.Organization) != len(want.Groups) {
			t.Errorf("%s is %v", name, got)
		}
	}
}

func TestFrontProxyHasAnAuthorityOfItsOwn(t *testing.T) {
	c := writeCluster(t)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := c.certificate(t, "front-proxy-client").Verify(x509.VerifyOptions{Roots: c.pool(t, "front-proxy-ca"), KeyUsages: usage}); err != nil {
		t.Error(err)
	}
	if _, err := c.certificate(t, "admin").Verify(x509.VerifyOptions{Roots: c.pool(t, "front-proxy-ca"), KeyUsages: usage}); err == nil {
		t.Error("an ordinary client passes for the front proxy")
	}
}

func TestKeysAreSecretAndFit(t *testing.T) {
	c := writeCluster(t)
	keys, err := filepath.Glob(filepath.Join(c.Dir, "*.key"))
	if err != nil || len(keys) == 0 {
		t.Fatal(keys, err)
	}
	for _, key := range keys {
		if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", key, st.Mode(), err)
		}
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "apiserver.crt"), filepath.Join(c.Dir, "apiserver.key")); err != nil {
		t.Error(err)
	}
}
