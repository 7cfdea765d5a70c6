package imdspath_test

import (
	"fmt"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
)

// Metadata is relayed in its plain spelling; no spelling of an identity path
// is.
func ExampleRules_Classify() {
	rules := imdspath.Rules{Instance: true}
	for _, target := range []string{
		"/metadata/identity/oauth2/token?resource=https://vault.azure.net",
		"/metadata/instance/compute/name?api-version=2021-02-01",
		"/metadata/instance/../identity/oauth2/token",
		"/metadata/%2569dentity/oauth2/token",
	} {
		route := rules.Classify(imdspath.Raw(target))
		fmt.Printf("%s, relayed %t\n", route.Endpoint, route.Path != "")
	}
	// Output:
	// token, relayed false
	// instance, relayed true
	// refused, relayed false
	// refused, relayed false
}
