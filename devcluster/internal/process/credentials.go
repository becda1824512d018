package process

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultCapabilities are those that containerd gives a container.
var defaultCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
}

// uid is the pod's runAsUser, else the image's user: the kubelet has resolved that already.
func (c *container) uid() int64 {
	if user := c.config.GetLinux().GetSecurityContext().GetRunAsUser(); user != nil {
		return user.Value
	}
	if c.image.User != nil {
		return *c.image.User
	}
	return 0
}

// credential is nil when the process stays what this one is.
func (c *container) credential() *syscall.Credential {
	security := c.config.GetLinux().GetSecurityContext()
	credential := &syscall.Credential{Uid: uint32(c.uid()), Gid: uint32(security.GetRunAsGroup().GetValue())}
	for _, group := range security.GetSupplementalGroups() {
		credential.Groups = append(credential.Groups, uint32(group))
	}
	if !setgroupsAllowed() { // an unprivileged user namespace: only uid 0, the user itself, is mapped
		if credential.Uid == 0 && credential.Gid == 0 {
			return nil
		}
		credential.NoSetGroups = true
	}
	return credential
}

func setgroupsAllowed() bool {
	text, _ := os.ReadFile("/proc/self/setgroups")
	return !strings.HasPrefix(string(text), "deny")
}

// restrict limits what processes started from the calling thread can ever gain: the capability
// bounding set and no_new_privs are properties of a thread that its children inherit.
func (c *container) restrict() error {
	security := c.config.GetLinux().GetSecurityContext()
	if security.GetNoNewPrivs() {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	if security.GetPrivileged() {
		return nil
	}
	keep := map[uintptr]bool{}
	for _, capability := range defaultCapabilities {
		keep[capability] = true
	}
	lists := security.GetCapabilities()
	apply(keep, lists.GetDropCapabilities(), false) // drop ALL first, then what is added back
	apply(keep, lists.GetAddCapabilities(), true)
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if !keep[capability] {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && err != unix.EINVAL {
				return fmt.Errorf("dropping capability %d: %w", capability, err)
			}
		}
	}
	return nil
}

func apply(keep map[uintptr]bool, names []string, value bool) {
	for _, name := range names {
		name = strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if name == "ALL" {
			for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
				keep[capability] = value
			}
		} else if capability, ok := capabilities[name]; ok {
			keep[capability] = value
		}
	}
}

var capabilities = map[string]uintptr{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "SETGID": unix.CAP_SETGID,
	"SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "IPC_LOCK": unix.CAP_IPC_LOCK,
	"SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
	"SYS_NICE": unix.CAP_SYS_NICE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "SYS_TIME": unix.CAP_SYS_TIME,
	"MKNOD": unix.CAP_MKNOD, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "SETFCAP": unix.CAP_SETFCAP,
	"PERFMON": unix.CAP_PERFMON, "BPF": unix.CAP_BPF,
}
