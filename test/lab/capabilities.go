package lab

import (
	"os/exec"
	"strings"
)

// DefaultCapabilities returns those that containerd and CRI-O give to a
// container that asks for none, NET_RAW among them.
func DefaultCapabilities() []string {
	return []string{
		"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
		"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	}
}

// limitTo returns the command that runs another with these capabilities alone,
// as a container runtime would: what the bounding set does not have is lost
// when the program starts, for each of its threads. nil where there is no limit.
func limitTo(capabilities []string) ([]string, error) {
	if capabilities == nil {
		return nil, nil
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		return nil, err
	}
	bounding := "-all"
	for _, c := range capabilities {
		bounding += ",+" + strings.ToLower(c)
	}
	return []string{setpriv, "--bounding-set", bounding, "--inh-caps", "-all", "--"}, nil
}
