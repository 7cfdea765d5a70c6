package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/taint"
)

// Flags that several commands have, and kinds of flags. Those of one command are
// with that.

func addHost(flags *pflag.FlagSet, host *daemon.Host) {
	addCgroups(flags, &host.CgroupRoot, &host.KubepodsCgroup)
	flags.StringVar(&host.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's directory")
	addBPFFS(flags, &host.BPFFS)
	flags.StringVar(&host.Proc, "proc", "/proc", "the host's procfs")
}

func addCgroups(flags *pflag.FlagSet, root, kubepods *string) {
	flags.StringVar(root, "cgroup-root", "/sys/fs/cgroup", "the host's cgroup v2 mount")
	flags.StringVar(kubepods, "kubepods-cgroup", "", "path of the kubepods cgroup (default: found below --cgroup-root)")
}

func addConfig(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "config", "/etc/sidestep/config.yaml", "the agent's configuration file")
}

const stateDirFlag = "state-dir"

func addStateDir(flags *pflag.FlagSet, dir *string) {
	flags.StringVar(dir, stateDirFlag, "/run/sidestep", "directory of the agent's local sockets and of its snapshot of pods, which the agents of a node share")
}

const defaultInstance = "agent"

func addInstance(flags *pflag.FlagSet, instance *string) {
	flags.StringVar(instance, "instance", defaultInstance, "name of this agent among those of the node, as its pod's")
}

// checkInstance fails unless the name can be part of a file's.
func checkInstance(name string) error {
	if name == "" || name != filepath.Base(name) || len(name) > 63 {
		return fmt.Errorf("--instance is %q: it must be a name of 63 characters at most, without a slash", name)
	}
	return nil
}

func addNodeName(flags *pflag.FlagSet, name *string, when string) {
	flags.StringVar(name, "node-name", "", "the name of this node in the cluster ("+when+")")
}

func addKubeconfig(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "kubeconfig", "", "kubeconfig file (default: in-cluster)")
}

// defaultListen is where the node listener is unless a flag says otherwise.
var defaultListen = netip.MustParseAddrPort("169.254.169.252:2579")

func addListen(flags *pflag.FlagSet, at *netip.AddrPort) {
	*at = defaultListen
	flags.Var((*ipv4Endpoint)(at), "listen", "the node listener, put on the loopback link")
}

func addPrograms(flags *pflag.FlagSet, p *daemon.Programs) {
	addListen(flags, &p.Listen)
	p.Ports = delivery.PortRange{First: 28000, Last: 29999}
	flags.Var((*portRange)(&p.Ports), "port-range", "ports for listeners in pods")
	addOneOf(flags, &p.Guard, "guard", "", "what is dropped that evades connect(): packets too, those of sockets, or nothing",
		daemon.GuardFull, daemon.GuardSocket, daemon.GuardOff)
	addSecondLine(flags, &p.SecondLine)
}

func addSecondLine(flags *pflag.FlagSet, line *string) {
	addOneOf(flags, line, "second-line", "", "the part of --guard=full that drops where the node routes; auto: nftables, but none where the node's label says that packets bypass netfilter (AKS with eBPF host routing)",
		daemon.LineAuto, daemon.LineNFTables, daemon.LineOff)
}

func addDelivery(flags *pflag.FlagSet, delivery *string) {
	addOneOf(flags, delivery, "delivery", "", "where steered connects go: a listener in each pod, or one on the node", daemon.DeliveryPod, daemon.DeliveryNode)
}

func addBootConfig(flags *pflag.FlagSet, path *string, otherwise string) {
	flags.StringVar(path, "boot-config", otherwise, "file on the host with what the boot guard obeys of the configuration")
}

func addRemoveTaint(flags *pflag.FlagSet, remove *bool) {
	flags.BoolVar(remove, "remove-taint", false, "take the taint "+taint.Key+" from the node (run: once ready)")
}

func addBPFFS(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "bpffs", "/sys/fs/bpf", "the BPF filesystem to pin to")
}

// environmentName returns the variable that a flag may be given by.
func environmentName(flag string) string {
	return "SIDESTEP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment gives each flag that was not set on the command line the
// value of its environment variable, without the white space around it: it comes
// from commands such as az, which end lines with a carriage return on Windows.
func fromEnvironment(flags *pflag.FlagSet, getenv func(string) string) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := environmentName(f.Name)
		value := strings.TrimSpace(getenv(name))
		if f.Changed || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// oneOf is a flag that takes one of a few words.
type oneOf struct {
	value *string
	words []string
}

// addOneOf adds such a flag; the first word is the default. shorthand may be
// empty.
func addOneOf(flags *pflag.FlagSet, value *string, name, shorthand, usage string, words ...string) {
	*value = words[0]
	flags.VarP(&oneOf{value, words}, name, shorthand, usage+" ("+strings.Join(words, ", ")+")")
}

func (o *oneOf) String() string { return *o.value }
func (o *oneOf) Type() string   { return "string" }
func (o *oneOf) Set(s string) error {
	for _, word := range o.words {
		if s == word {
			*o.value = s
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", strings.Join(o.words, ", "))
}

// portRange is a flag of the form first-last.
type portRange delivery.PortRange

func (r *portRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }
func (r *portRange) Type() string   { return "first-last" }
func (r *portRange) Set(s string) error {
	first, last, ok := strings.Cut(s, "-")
	low, errLow := strconv.ParseUint(first, 10, 16)
	high, errHigh := strconv.ParseUint(last, 10, 16)
	if !ok || errLow != nil || errHigh != nil || low == 0 || low > high {
		return errors.New("must be two ports, the lower first, as in 28000-29999")
	}
	r.First, r.Last = uint16(low), uint16(high)
	return nil
}

// ipv4Endpoint is a flag of an IPv4 address and a port.
type ipv4Endpoint netip.AddrPort

func (e *ipv4Endpoint) String() string { return netip.AddrPort(*e).String() }
func (e *ipv4Endpoint) Type() string   { return "address:port" }
func (e *ipv4Endpoint) Set(s string) error {
	at, err := netip.ParseAddrPort(s)
	if err != nil || !at.Addr().Is4() || at.Port() == 0 {
		return errors.New("must be an IPv4 address and a port, as in 169.254.169.252:2579")
	}
	*e = ipv4Endpoint(at)
	return nil
}

// configMapName is a flag of a ConfigMap's namespace and name; empty for none.
type configMapName types.NamespacedName

func (n *configMapName) Type() string { return "namespace/name" }
func (n *configMapName) String() string {
	if n.Name == "" {
		return ""
	}
	return n.Namespace + "/" + n.Name
}

func (n *configMapName) Set(s string) error {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return errors.New("must be a namespace and a name, as in sidestep-system/sidestep-agent-config")
	}
	n.Namespace, n.Name = namespace, name
	return nil
}
