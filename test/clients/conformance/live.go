package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// live changes the mapping of identities while the first client's pod runs.
// No agent and no pod is restarted: each change is applied within seconds.
func (s *suite) live(ctx context.Context, clients []client) error {
	const patience = 5 * time.Second
	i := slices.IndexFunc(clients, func(c client) bool {
		return slices.ContainsFunc(c.cases, func(t testCase) bool { return t == testCase{mode: "managed", by: "object", budget: cached} })
	})
	if i < 0 {
		return nil
	}
	c, t := clients[i], testCase{mode: "managed", by: "object", budget: cached}
	pod, ids := s.pods[c.short], s.ids[c.group()]
	for _, step := range []struct {
		what   string
		uses   []string
		mapped bool
	}{
		{"object_id, its mapping taken away", []string{"client", "resource"}, false},
		{"object_id, mapped again", []string{"client", "object", "resource"}, true},
	} {
		s.scene.Annotate(pod, map[string]string{
			scene.ClientIDAnnotation: ids["none"].ClientID, scene.IdentitiesAnnotation: ids.mapping(step.uses...),
		})
		deadline := time.Now().Add(patience)
		for {
			seen, took, err := s.observe(ctx, c, t)
			if err != nil {
				return err
			}
			why := judge(c, t, ids["object"], seen)
			if !step.mapped {
				why = refused(seen)
			}
			if why == "" || time.Now().After(deadline) {
				s.table.row(c.name, step.what, spent(seen.requests), took, why)
				break
			}
		}
	}
	return nil
}

// refused checks that an identity that is not mapped is refused in IMDS's
// words, and that the client leaves it at one request.
func refused(o observed) string {
	switch used := spent(o.requests); {
	case len(o.result.Tokens) > 0:
		return "it got a token"
	case !strings.Contains(o.result.Error, "Identity not found"):
		return "it was answered " + o.result.Error
	case used.tokens+used.probes+used.refusals != 1:
		return "it asked " + used.String() + " times"
	}
	return ""
}
