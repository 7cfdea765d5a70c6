package tokens

import (
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// record is what one agent hands to the next on the same node: a cached token,
// or a circuit that is not closed. Times that only this process can compare are
// durations.
type record struct {
	Account   string              `json:"account"`
	Authority string              `json:"authority"`
	Tenant    string              `json:"tenant"`
	ClientID  string              `json:"clientId"`
	Resource  string              `json:"resource"`
	Proxy     string              `json:"proxy,omitempty"`
	SNI       string              `json:"sni,omitempty"`
	CAData    string              `json:"caData,omitempty"`
	CA        workload.VolumeFile `json:"ca,omitzero"`

	Token     workload.Token      `json:"token"`
	Issued    time.Time           `json:"issued"` // the date
	Age       time.Duration       `json:"age"`
	Lifetime  time.Duration       `json:"lifetime"`
	RefreshIn time.Duration       `json:"refreshIn"`
	Used      bool                `json:"used"`
	Askers    []workload.Workload `json:"askers"`
	Pods      []string            `json:"pods"` // so that the audit has each once

	// Circuit is set in place of all else. An agent of a version that does not
	// know it reads a token of no service account, and leaves that out.
	Circuit *circuitRecord `json:"circuit,omitempty"`
}

// circuitRecord is a circuit that is not closed.
type circuitRecord struct {
	Authority string `json:"authority"`
	Tenant    string `json:"tenant"`
	Account   string `json:"account,omitempty"`
	ClientID  string `json:"clientId,omitempty"`

	Failures int           `json:"failures"`
	Failing  time.Duration `json:"failing"`
	Pause    time.Duration `json:"pause"`
	Accounts []string      `json:"accounts,omitempty"`
}

// export returns the tokens that still hold and the circuits that are open.
func (c *cache) export() (all []record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	c.tokens.Each(func(k key, e *entry) bool {
		if e.left(now) > 0 {
			all = append(all, recordOf(k, e, now))
		}
		return true
	})
	c.circuits.failing.Each(func(r realm, known *circuit) bool {
		if known.open() {
			all = append(all, record{Circuit: circuitRecordOf(r, known, now.Steady)})
		}
		return true
	})
	return all
}

// take keeps what another cache exported, and reports whether that was a token
// that it took.
func (c *cache) take(r record, known func(serviceAccountUID string) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	if r.Circuit != nil {
		of, closed := r.Circuit.circuit(now.Steady)
		if _, ok := c.circuits.failing.Get(of, now.Steady); !ok {
			c.circuits.failing.Put(of, closed, now.Steady)
		}
		return false
	}
	k, e := r.entry(now)
	if _, ok := c.tokens.Get(k, now.Steady); ok || !known(r.Account) || e.left(now) <= 0 {
		return false
	}
	c.store(k, e, now.Steady)
	return true
}

func recordOf(k key, e *entry, now clocks.Instant) record {
	r := record{
		Account: k.account, Authority: k.authority, Tenant: k.tenant, ClientID: k.clientID, Resource: k.resource,
		Proxy: k.proxy.URL, SNI: k.proxy.SNI, CAData: k.proxy.CAData, CA: k.proxy.CA,
		Token: e.token, Issued: e.issued.Date, Age: now.Steady.Sub(e.issued.Steady), Lifetime: e.lifetime,
		RefreshIn: e.refreshAt.Sub(now.Steady), Used: e.used, Askers: e.askers,
	}
	for uid := range e.pods {
		r.Pods = append(r.Pods, uid)
	}
	return r
}

func (r record) entry(now clocks.Instant) (key, *entry) {
	e := &entry{
		token: r.Token, issued: clocks.Instant{Steady: now.Steady.Add(-r.Age), Date: r.Issued}, lifetime: r.Lifetime,
		refreshAt: now.Steady.Add(r.RefreshIn), used: r.Used, askers: r.Askers,
		pods: make(map[string]struct{}, len(r.Pods)),
	}
	e.token.Made = new(workload.Memo)
	for _, uid := range r.Pods {
		e.pods[uid] = struct{}{}
	}
	return key{account: r.Account, target: target{
		authority: r.Authority, tenant: r.Tenant, clientID: r.ClientID, resource: r.Resource,
		proxy: entra.Proxy{URL: r.Proxy, SNI: r.SNI, CAData: r.CAData, CA: r.CA},
	}}, e
}

func circuitRecordOf(r realm, c *circuit, now time.Time) *circuitRecord {
	x := &circuitRecord{
		Authority: r.authority, Tenant: r.tenant, Account: r.account, ClientID: r.client,
		Failures: c.failures, Failing: now.Sub(c.since), Pause: c.until.Sub(now),
	}
	for uid := range c.accounts {
		x.Accounts = append(x.Accounts, uid)
	}
	return x
}

func (x *circuitRecord) circuit(now time.Time) (realm, *circuit) {
	c := newCircuit(now.Add(-x.Failing))
	c.failures, c.until = x.Failures, now.Add(min(x.Pause, entra.MaxRetryAfter))
	for _, uid := range x.Accounts {
		c.accounts[uid] = struct{}{}
	}
	return realm{authority: x.Authority, tenant: x.Tenant, account: x.Account, client: x.ClientID}, c
}
