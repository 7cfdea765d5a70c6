package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// What each installs is the defaults, which pkg/config alone knows, and the
// one thing that it is named for.
func TestConfigurationIsTheDefaultsAndOneDifference(t *testing.T) {
	all := rendered(t)
	for name, change := range map[string]func(*config.AgentConfiguration){
		"base":          func(*config.AgentConfiguration) {},
		"boot-guard":    func(*config.AgentConfiguration) {},
		"metrics-auth":  func(*config.AgentConfiguration) {},
		"node-delivery": func(*config.AgentConfiguration) {},
		"taint":         func(*config.AgentConfiguration) {},
		"token-request": func(*config.AgentConfiguration) {},
		"audit":         func(c *config.AgentConfiguration) { c.Mode = config.ModeAudit },
		"recommended": func(c *config.AgentConfiguration) {
			c.Unlabeled, c.WireServer = config.UnlabeledDeny, config.WireServerDeny
		},
		"deny-unlabeled": func(c *config.AgentConfiguration) { c.Unlabeled = config.UnlabeledDeny },
		"metadata-only":  func(c *config.AgentConfiguration) { c.Unlabeled = config.UnlabeledMetadataOnly },
		"canary":         func(c *config.AgentConfiguration) { c.Scope.Namespaces = []string{"sidestep-canary"} },
	} {
		want := config.Default()
		change(want)
		got, err := config.Parse([]byte(configFile(t, all[name])))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, emptyIsNil); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// emptyIsNil takes a list that is written as [] for one that is not written.
var emptyIsNil = cmp.Transformer("emptyIsNil", func(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
})
