package tokens

import (
	"slices"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// An exchange goes to the cloud's own Entra, to the authority that the agent
// is set to, or to that of the pod, and nowhere else.
func TestExchangeGoesToTheRightCloud(t *testing.T) {
	for name, tt := range map[string]struct {
		cloud         Cloud
		authorityHost string // of the agent
		podsOwn       string
		endpoint      string // that discovery names; empty: the same host
		want          string
	}{
		"public":                 {cloud: AzurePublic, want: "login.microsoftonline.com"},
		"US government":          {cloud: AzureUSGovernment, want: "login.microsoftonline.us"},
		"China":                  {cloud: AzureChina, want: "login.chinacloudapi.cn"},
		"China, by its partner":  {cloud: AzureChina, endpoint: "https://login.partner.microsoftonline.cn/x/oauth2/v2.0/token", want: "login.partner.microsoftonline.cn"},
		"a private one":          {authorityHost: "https://entra.internal.example:8443/", want: "entra.internal.example:8443"},
		"an IPv6 address":        {authorityHost: "https://[2001:db8::1]:8443", want: "[2001:db8::1]:8443"},
		"the pod's own":          {cloud: AzurePublic, podsOwn: "https://login.microsoftonline.us/", want: "login.microsoftonline.us"},
		"the pod's own, private": {authorityHost: "https://entra.internal.example", podsOwn: "https://entra.internal.example/", want: "entra.internal.example"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				engine, err := New(Options{
					KubeletDir: b.dir, TenantID: tenantA, Transport: b.entra,
					Cloud: tt.cloud, AuthorityHost: tt.authorityHost,
				})
				if err != nil {
					t.Fatal(err)
				}
				b.engine = engine
				b.entra.set(func(f *fakeEntra) { f.endpoint = tt.endpoint })
				w := b.pod("shop", "cart", "web")
				w.AuthorityHost = tt.podsOwn
				b.mustToken(w, workload.TokenRequest{Resource: vault})
				if got := b.entra.hosts; !slices.Equal(got, []string{tt.want}) {
					t.Errorf("the assertion went to %v, want %s", got, tt.want)
				}
			})
		})
	}
}
