package kernel

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

const everythingFlushed = "everything flushed"

// others are rules as other programs of a node write them, each with a way from
// the Service's address to the metadata service, and how they are loaded.
// Loading them flushes what was there of them before.
var others = map[string]struct{ program, rules, flush string }{
	"kube-proxy, iptables":        {"iptables-nft-restore", kubeProxyIPTables, "*nat\nCOMMIT\n"},
	"kube-proxy, legacy iptables": {"iptables-legacy-restore", kubeProxyIPTables, "*nat\nCOMMIT\n"},
	"kube-proxy, nftables":        {"nft", kubeProxyNFT(imds), "flush table ip kube-proxy\n"},
	"portmap":                     {"iptables-nft-restore", portmapRules, "*nat\nCOMMIT\n"},
	"Calico, iptables":            {"iptables-legacy-restore", calicoRules, "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n"},
	everythingFlushed:             {"nft", kubeProxyNFT(imds), "flush ruleset\n"},
}

const kubeProxyIPTables = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
:KUBE-SEP-X - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-X
-A KUBE-SVC-X ! -s 10.64.0.0/10 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-X -m statistic --mode random --probability 1.0 -j KUBE-SEP-X
-A KUBE-SEP-X -p tcp -m tcp -j DNAT --to-destination 169.254.169.254:80
COMMIT
`

const portmapRules = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-DN-X - [0:0]
-A PREROUTING -d 10.96.0.10/32 -j CNI-HOSTPORT-DNAT
-A OUTPUT -d 10.96.0.10/32 -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: net" -m multiport --destination-ports 80 -j CNI-DN-X
-A CNI-DN-X -s 10.64.0.0/10 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-X -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.169.254:80
COMMIT
`

const calicoRules = `*raw
:PREROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i pod+ -j MARK --set-xmark 0x40000/0x40000
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-fip-dnat - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j cali-fip-dnat
-A cali-fip-dnat -d 10.96.0.10/32 -p tcp -j DNAT --to-destination 169.254.169.254
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:cali-INPUT - [0:0]
-A INPUT -j cali-INPUT
-A cali-INPUT -i pod+ -m mark --mark 0x40000/0x40000 -j ACCEPT
COMMIT
`

func load(t *testing.T, program, rules string) {
	t.Helper()
	args := []string{"-f", "-"}
	if program != "nft" {
		args = nil
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// The second line is indifferent to what others write, flush and write again.
func TestSecondLineBesideOthersRules(t *testing.T) {
	n := newLined(t, nil)
	passing, denied := n.pod(t, pass, lab.PodOptions{}), n.guardedPod(t, deny, guardFull)
	for name, o := range others {
		load(t, o.program, o.rules)
		passes(t, name, dialFrom(t, passing, dialing{To: imds}))
		before := n.repairs.Load()
		load(t, o.program, o.flush)
		if name == everythingFlushed {
			eventually(t, "the second line is put back", func() bool { return n.repairs.Load() > before })
			before++
		}
		passes(t, name+", flushed", dialFrom(t, passing, dialing{To: imds}))
		load(t, o.program, o.rules)
		passes(t, name+", loaded again, by a Service", dialFrom(t, passing, dialing{To: vip}))
		if got := seenBy(denied, dialFrom(t, denied, dialing{To: vip, Impatient: true})); got != dropped {
			t.Errorf("%s: a denied pod by a Service: %s", name, got)
		}
		if now := n.repairs.Load(); now != before {
			t.Errorf("%s: %d repairs, want none", name, now-before)
		}
		load(t, o.program, strings.ReplaceAll(o.flush, "flush ruleset", "delete table ip kube-proxy"))
	}
}
