package status

import "time"

// Report is what one agent says about itself and its node.
type Report struct {
	Version  string    `json:"version"`
	Node     string    `json:"node"`
	Since    time.Time `json:"since"`    // when the agent started
	Mode     string    `json:"mode"`     // enforce or audit
	Delivery string    `json:"delivery"` // pod or node
	Guard    string    `json:"guard"`    // full, socket or off
	// SecondLine is the state of the full guard's second line: active, open,
	// waiting or none; empty with another guard.
	SecondLine string `json:"secondLine,omitempty"`
	// TokenRequest: a pod without a projected token has one asked for.
	TokenRequest bool `json:"tokenRequest"`
	Ready        bool `json:"ready"`
	// Configuration is what is applied of the configuration.
	Configuration Configuration `json:"configuration"`
	// StaleSince is when the snapshot was taken that pods and service accounts
	// are from, while the API server has not answered this agent yet. Zero:
	// they are as the API server says.
	StaleSince time.Time `json:"staleSince,omitzero"`
	// BootGuard says what the boot guard has done; empty where there is none.
	BootGuard string `json:"bootGuard,omitempty"`

	Pods            []Pod            `json:"pods"`
	ServiceAccounts []ServiceAccount `json:"serviceAccounts"`
	// Counters are connects since the programs were attached, by verdict.
	Counters map[string]uint64 `json:"counters,omitempty"`
	// Problems are what a person should know or fix, one line each.
	Problems []string `json:"problems,omitempty"`
}

// Configuration is what is applied of the agent's configuration.
type Configuration struct {
	// Origin is file, configMap, kept (the last good one that an agent of this
	// node kept) or none (there was no valid one: every pod is held).
	Origin string `json:"origin"`
	// Refused is why the newest version is not applied; empty: it is.
	Refused string `json:"refused,omitempty"`
}

// Pod is one pod of the node with what was decided on it.
type Pod struct {
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	UID            string `json:"uid"`
	ServiceAccount string `json:"serviceAccount"`
	ClientID       string `json:"clientId,omitempty"`
	Verdict        string `json:"verdict"`
	Access         string `json:"access,omitempty"` // of a steered pod
	Reason         string `json:"reason"`
	Listener       uint16 `json:"listener,omitempty"` // port; 0: none
	CgroupID       uint64 `json:"cgroupId,omitempty"` // 0: not seen yet
	// Containers are those of a pod whose containers differ (skip-containers);
	// Verdict is then that of containers which are not known yet.
	Containers []Container `json:"containers,omitempty"`
	// Token is how the pod's last request for a token was answered; nil: it has
	// made none of this agent.
	Token *Answer `json:"token,omitempty"`
}

// Answer is how a request for a token was answered.
type Answer struct {
	At        time.Time `json:"at"`
	ExpiresOn time.Time `json:"expiresOn,omitzero"` // of the token
	Error     string    `json:"error,omitempty"`    // empty: there is a token
	// Explained: the error names the cause, and the agent's log adds nothing.
	Explained bool   `json:"explained,omitempty"`
	Fix       string `json:"fix,omitempty"` // a shell command that fixes it
}

// Container is one container with what was decided on it.
type Container struct {
	ID      string `json:"id"` // without the runtime's prefix
	Verdict string `json:"verdict"`
	Access  string `json:"access,omitempty"` // of a steered container
	Reason  string `json:"reason"`
}

// ServiceAccount is one service account that pods of the node use, with its
// last exchange.
type ServiceAccount struct {
	Namespace    string    `json:"namespace"`
	Name         string    `json:"name"`
	ClientID     string    `json:"clientId,omitempty"`
	TenantID     string    `json:"tenantId,omitempty"`
	LastExchange time.Time `json:"lastExchange,omitzero"` // zero: none yet
	ExpiresOn    time.Time `json:"expiresOn,omitzero"`    // of the token it brought
	LastError    string    `json:"lastError,omitempty"`
	Fix          string    `json:"fix,omitempty"` // a shell command that fixes it
}
