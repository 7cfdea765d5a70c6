package bootguard

import "path/filepath"

// UnitName is the name of the systemd unit.
const UnitName = "sidestep-boot-guard.service"

// Where the files are unless a flag says otherwise. The program is apart from
// the configuration: the agent writes the one and may not write the other,
// which systemd runs as root.
const (
	DefaultProgram     = "/opt/sidestep/agent"
	DefaultConfig      = "/var/lib/sidestep/boot.yaml"
	DefaultUnitDir     = "/etc/systemd/system"
	DefaultKubeletUnit = "kubelet.service"
)

// Files are the paths of what the boot guard has on the host, as the host has
// them. In a container they are mounted by the same paths.
type Files struct {
	Program     string // the agent's, as the unit runs it
	Config      string // what it obeys
	UnitDir     string // systemd's, for units of the administrator
	KubeletUnit string // the unit that waits for it
	StateDir    string // in memory: says what happened since the boot

	// Root stands before every path when a file is touched, not when it is
	// named; empty but in tests.
	Root string
}

func (f Files) unit() string { return filepath.Join(f.UnitDir, UnitName) }

// wants is the directory of what systemd starts with the kubelet.
func (f Files) wants() string { return filepath.Join(f.UnitDir, f.KubeletUnit+".wants") }

// link enables the unit, as `systemctl enable` would.
func (f Files) link() string { return filepath.Join(f.wants(), UnitName) }

func (f Files) marker() string { return filepath.Join(f.StateDir, markerName) }

// at returns where the path is for this process.
func (f Files) at(path string) string { return filepath.Join(f.Root, path) }
