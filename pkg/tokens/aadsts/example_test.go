package aadsts_test

import (
	"fmt"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func ExampleExplain() {
	refused := workload.TokenErrorf(workload.Refused, "AADSTS700016: Application not found in the directory")
	refused.Code = "AADSTS700016"
	explained := aadsts.Explain(refused, aadsts.Facts{
		Namespace: "team-a", Account: "web",
		ClientID: "11111111-1111-1111-1111-111111111111",
		Tenant:   "22222222-2222-2222-2222-222222222222",
	})
	fmt.Println(explained.Meaning)
	// Output:
	// there is no client 11111111-1111-1111-1111-111111111111 in the tenant 22222222-2222-2222-2222-222222222222: one of the two is wrong
}
