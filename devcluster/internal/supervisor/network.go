package supervisor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/easel-dev/easel/devcluster/internal/config"
)

// setUpNetwork gives the cluster's network namespace its addresses. They live on the loopback
// device but are not loopback addresses: EndpointSlices refuse those.
func setUpNetwork(cluster *config.Config) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	addresses := []string{config.APIServerIP}
	for _, node := range cluster.Nodes {
		addresses = append(addresses, node.IP())
	}
	for _, address := range addresses {
		ip := &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ip}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("address %s: %w", address, err)
		}
	}
	// A packet to a Service needs a route before kube-proxy's rules can rewrite its address.
	_, services, err := net.ParseCIDR(config.ServiceCIDR)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: services, Src: net.ParseIP(config.APIServerIP), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route to Services: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// forward carries connections from the host's loopback address to the API server.
func forward(listener net.Listener) {
	for {
		outside, err := listener.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			time.Sleep(100 * time.Millisecond) // too many open files: let some end
			continue
		}
		if err != nil {
			klog.ErrorS(err, "no more connections from the host")
			return
		}
		go join(outside)
	}
}

func join(outside net.Conn) {
	defer outside.Close()
	inside, err := net.DialTimeout("tcp", config.APIServerIP+":6443", 5*time.Second)
	if err != nil {
		return // the client sees the connection end, as from an API server that is down
	}
	defer inside.Close()
	go func() {
		_, _ = io.Copy(inside, outside)
		_ = inside.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(outside, inside)
}
