package daemon

import (
	"errors"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

// Options are what an agent is started with. The flags of `agent run` say what
// each means.
type Options struct {
	Host
	Programs
	NodeName       string
	Kubeconfig     string
	Config         string
	ConfigMap      types.NamespacedName // of the file Config; empty: it is not watched
	Delivery       string
	IMDSEndpoint   string
	TenantID       string
	Cloud          string
	AuthorityHost  string
	CAFile         string
	TokenRequest   bool
	TokenAudience  string
	TokenProxy     string
	RemoveTaint    bool
	BootConfig     string
	MetricsAddress string
	MetricsAuth    bool
	StateDir       string
	Instance       string
	DrainTimeout   time.Duration
	TraceEndpoint  string

	Version string // of the program
	// Problems are what is wrong with what the agent was started with and does
	// not keep it from serving, a line each.
	Problems []string
}

// Host says where the host's things are.
type Host struct {
	CgroupRoot     string
	KubepodsCgroup string
	KubeletDir     string
	BPFFS          string
	Proc           string
}

// Programs are the settings of the programs in the kernel that do not change
// while they are attached.
type Programs struct {
	Listen netip.AddrPort // of the node listener
	Ports  delivery.PortRange
	Guard  string
	// SecondLine is the part of the full guard where the node routes.
	SecondLine string
}

// The values of Options.Delivery.
const (
	DeliveryPod  = "pod"
	DeliveryNode = "node"
)

// The values of Programs.Guard.
const (
	GuardFull   = "full"
	GuardSocket = "socket"
	GuardOff    = "off"
)

// The values of Programs.SecondLine.
const (
	LineAuto     = "auto"
	LineNFTables = "nftables"
	LineOff      = "off"
)

// errNoNamespaces says why the full guard is not to be had with node delivery.
var errNoNamespaces = errors.New("with --delivery=node the agent may not look into pods' network namespaces, so it cannot tell whose a link is: " +
	"say --guard=socket, or --delivery=pod")

// effectiveGuard returns the active guard, and why it is less than what was
// asked for, if it is.
func (o Options) effectiveGuard() (string, error) {
	if o.Guard == GuardFull && o.Delivery == DeliveryNode {
		return GuardSocket, errNoNamespaces
	}
	return o.Guard, nil
}

// connectionQuota is how many steered connections one pod may have open in the
// kernel, whoever answers them; the broker closes idle ones long before
// (pkg/broker/limits.go). Real clients keep a handful.
const connectionQuota = 1024

// settings returns the settings of the programs at the kubepods cgroup with the
// path and the id, on the node whose network namespace has the cookie.
func (p Programs) settings(c *config.AgentConfiguration, path string, id, nodeNetns uint64) (intercept.Settings, error) {
	qos, err := cgroups.QoS(path)
	return intercept.Settings{
		KubepodsID:             id,
		QoSIDs:                 qos,
		NodeNetns:              nodeNetns,
		NodeListener:           p.Listen,
		FirstPort:              p.Ports.First,
		LastPort:               p.Ports.Last,
		Audit:                  c.Mode == config.ModeAudit,
		UnknownPass:            c.Unknown == config.UnknownPass,
		UnknownHostNetworkPass: c.UnknownHostNetwork == config.UnknownPass,
		DenyWireServer:         c.WireServer == config.WireServerDeny,
		Quota:                  connectionQuota,
	}, err
}

// linePolicy returns what the second line goes by.
func linePolicy(c *config.AgentConfiguration) routeguard.Policy {
	return routeguard.Policy{
		Open:           c.Mode == config.ModeAudit,
		UnknownPass:    c.Unknown == config.UnknownPass,
		DenyWireServer: c.WireServer == config.WireServerDeny,
	}
}
