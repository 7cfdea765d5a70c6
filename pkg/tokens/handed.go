package tokens

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// handed is one cached token as one agent hands it to the next on the same
// node. Times that only this process can compare are told as durations.
type handed struct {
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
}

// Export returns the cached tokens that still hold, the oldest first, for
// another Engine's Import. They are secret, and shall stay in memory.
func (e *Engine) Export() ([][]byte, error) {
	c := e.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now()
	var all [][]byte
	var errs []error
	c.tokens.each(func(k key, t *entry) bool {
		if t.left(now) > 0 {
			text, err := json.Marshal(export(k, t, now))
			errs = append(errs, err)
			all = append(all, text)
		}
		return true
	})
	if err := errors.Join(errs...); err != nil {
		return nil, errors.New("encode the cached tokens") // the cause may quote one
	}
	return all, nil
}

// Import puts in the cache what another Engine exported a moment ago, but for
// the tokens of service accounts that known, given their UIDs, does not know,
// and where there is a token already. It returns how many it took.
func (e *Engine) Import(all [][]byte, known func(serviceAccountUID string) bool) (taken int, err error) {
	c := e.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now()
	for _, text := range all {
		var h handed
		if json.Unmarshal(text, &h) != nil {
			return taken, errors.New("decode a cached token") // the cause may quote it
		}
		k, t := h.entry(now)
		if _, ok := c.tokens.get(k, now.steady); ok || !known(h.Account) || t.left(now) <= 0 {
			continue
		}
		c.store(k, t, now.steady)
		taken++
	}
	return taken, nil
}

func export(k key, t *entry, now instant) handed {
	h := handed{
		Account: k.account, Authority: k.authority, Tenant: k.tenant, ClientID: k.clientID, Resource: k.resource,
		Proxy: k.through.proxy, SNI: k.through.sni, CAData: k.through.caData, CA: k.through.ca,
		Token: t.token, Issued: t.issued.date, Age: now.steady.Sub(t.issued.steady), Lifetime: t.lifetime,
		RefreshIn: t.refreshAt.Sub(now.steady), Used: t.used, Askers: t.askers,
	}
	for uid := range t.pods {
		h.Pods = append(h.Pods, uid)
	}
	return h
}

func (h handed) entry(now instant) (key, *entry) {
	t := &entry{
		token: h.Token, issued: instant{steady: now.steady.Add(-h.Age), date: h.Issued}, lifetime: h.Lifetime,
		refreshAt: now.steady.Add(h.RefreshIn), used: h.Used, askers: h.Askers,
		pods: make(map[string]struct{}, len(h.Pods)),
	}
	t.token.Made = new(workload.Memo)
	for _, uid := range h.Pods {
		t.pods[uid] = struct{}{}
	}
	return key{account: h.Account, target: target{
		authority: h.Authority, tenant: h.Tenant, clientID: h.ClientID, resource: h.Resource,
		through: through{proxy: h.Proxy, sni: h.SNI, caData: h.CAData, ca: h.CA},
	}}, t
}
