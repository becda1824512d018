package process

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newPodNetwork makes a network namespace with one address, joined to the node's network by a
// point-to-point link. The namespace lives as long as the returned file or a process in it.
func newPodNetwork(link, ip, gateway string) (*os.File, error) {
	made := make(chan error, 1)
	var namespace *os.File
	go func() {
		runtime.LockOSThread() // never unlocked: the changed thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			namespace, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	if err := connect(namespace, link, ip, gateway); err != nil {
		_ = namespace.Close()
		return nil, err
	}
	return namespace, nil
}

func connect(namespace *os.File, link, ip, gateway string) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = link
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsFd(namespace.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if err := addAddress(link, gateway); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Dst: host(ip), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to %s: %w", ip, err)
	}
	return inNetwork(namespace, func() error {
		if err := addAddress("lo", ""); err != nil {
			return err
		}
		if err := addAddress("eth0", ip); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		index := eth0.Attrs().Index
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host(gateway), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to %s: %w", gateway, err)
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: net.ParseIP(gateway)})
	})
}

func host(ip string) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(32, 32)}
}

// addAddress gives a link an address, if any, and sets it up.
func addAddress(name, ip string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if ip != "" {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: host(ip)}); err != nil {
			return fmt.Errorf("address %s on %s: %w", ip, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// inNetwork runs f on a thread inside the network namespace; nil stands for the node's own.
func inNetwork(namespace *os.File, f func() error) error {
	if namespace == nil {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the changed thread ends with the goroutine
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}
