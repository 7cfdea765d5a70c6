package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const header = "apiVersion: sidestep.dev/v1alpha1\nkind: AgentConfiguration\n"

const full = header + `mode: audit
select: either
unlabeled: metadata-only
unknown: pass
unknownHostNetwork: hold
scope: {namespaces: [shop, "on"]}
exceptions:
- namespaces: [monitoring]
- podSelector:
    matchLabels: {app: "true"}
    matchExpressions:
    - {key: tier, operator: In, values: [a, b]}
azurePodIdentityExceptions: honour
relay: {instance: false, userData: true, allow: [/metadata/attested/document]}
wireServer: deny
limits: {requestsPerSecond: 5, concurrent: 2}
`

func TestParseReadsEveryField(t *testing.T) {
	got, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &AgentConfiguration{
		APIVersion:         APIVersion,
		Kind:               Kind,
		Mode:               ModeAudit,
		Select:             SelectEither,
		Unlabeled:          UnlabeledMetadataOnly,
		Unknown:            UnknownPass,
		UnknownHostNetwork: UnknownHold,
		Scope:              Scope{Namespaces: []string{"shop", "on"}},
		Exceptions: []Exception{
			{Namespaces: []string{"monitoring"}},
			{PodSelector: metav1.LabelSelector{
				MatchLabels: map[string]string{"app": "true"},
				MatchExpressions: []metav1.LabelSelectorRequirement{{
					Key: "tier", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"},
				}},
			}},
		},
		AzurePodIdentityExceptions: PodIdentityExceptionsHonour,
		Relay:                      Relay{UserData: true, Allow: []string{"/metadata/attested/document"}},
		WireServer:                 WireServerDeny,
		Limits:                     Limits{RequestsPerSecond: 5, Concurrent: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseKeepsDefaultsOfFieldsNotGiven(t *testing.T) {
	got, err := Parse([]byte(header + "relay: {userData: true}\nlimits: {concurrent: 3}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Relay.UserData = true
	want.Limits.Concurrent = 3
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseTakesAnEmptyListOfExceptions(t *testing.T) {
	got, err := Parse([]byte(header + "exceptions: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Exceptions) != 0 {
		t.Errorf("Exceptions = %v, want none", got.Exceptions)
	}
}

func TestParseNamesLineAndMend(t *testing.T) {
	for name, tc := range map[string]struct {
		body string // after the two lines of the header
		want []string
	}{
		"misspelt field": {"selct: pod\n",
			[]string{`line 3: unknown field "selct": did you mean "select"?`}},
		"unknown field": {"relay: {everything: true}\n",
			[]string{`line 3: unknown field "relay.everything": remove it; known here are allow, instance, userData`}},
		"unknown field of a selector": {"exceptions:\n- podSelector: {matchLabel: {a: b}}\n",
			[]string{`line 4: unknown field "exceptions[0].podSelector.matchLabel": did you mean "matchLabels"?`}},
		"field given twice": {"mode: audit\nselect: pod\nmode: enforce\n",
			[]string{`line 5: "mode" is given twice, first on line 3: remove one`}},
		"wrong value": {"mode: off\n",
			[]string{`line 3: mode: "off" is not a value: use enforce or audit`}},
		"boolean for text": {"mode: true\n",
			[]string{"line 3: mode: YAML does not read true as text: put it in quotes"}},
		"text for boolean": {"relay: {instance: yes}\n",
			[]string{`line 3: relay.instance: "yes" is neither true nor false`}},
		"octal": {"limits: {concurrent: 010}\n",
			[]string{`line 3: limits.concurrent: "010" is not a whole number`}},
		"null": {"exceptions:\nmode: audit\n",
			[]string{"line 3: exceptions has no value: give one, or remove the line to have the default"}},
		"scalar for fields": {"scope: shop\n",
			[]string{"line 3: scope must hold fields"}},
		"scalar for a list": {"scope: {namespaces: shop}\n",
			[]string{"line 3: scope.namespaces must hold a list"}},
		"name that is a number": {"exceptions:\n- podSelector: {matchLabels: {1: a}}\n",
			[]string{`line 4: YAML does not read the name "1" as text: put it in quotes`}},
		"alias": {"scope: {namespaces: &n [shop]}\nexceptions: [{namespaces: *n}]\n",
			[]string{"line 4: exceptions[0].namespaces: YAML aliases are not read here: write the value out"}},
		"merge key": {"scope: &s {namespaces: [shop]}\nrelay: {<<: *s}\n",
			[]string{`line 4: YAML does not read the name "<<" as text: put it in quotes`}},
		"honor": {"azurePodIdentityExceptions: honor\n",
			[]string{`line 3: azurePodIdentityExceptions: "honor" is not a value: use ignore or honour`}},
		"wire server": {"wireServer: metadata-only\n",
			[]string{`line 3: wireServer: "metadata-only" is not a value: use pass or deny`}},
		"limits": {"limits:\n  requestsPerSecond: 0\n  concurrent: -1\n",
			[]string{
				"line 4: limits.requestsPerSecond: 0 would let no request through: use 1 or more",
				"line 5: limits.concurrent: -1 would let no request through: use 1 or more",
			}},
		"namespace wildcard": {"scope:\n  namespaces:\n  - shop\n  - team-*\n",
			[]string{`line 6: scope.namespaces[1]: "team-*" is not a namespace's name: write each name in full, wildcards are not known`}},
		"exception for all": {"exceptions:\n- podSelector: {matchLabels: {}}\n",
			[]string{"line 4: exceptions[0]: matches every pod: give namespaces or a podSelector (to let every pod pass, set mode to audit)"}},
		"second document": {"---\nmode: audit\n",
			[]string{"line 3: a second YAML document begins here: keep one document in the file"}},
		"several mistakes": {"limit: {}\nmode: x\nwireserver: pass\n",
			[]string{
				`line 3: unknown field "limit": did you mean "limits"?`,
				`line 4: mode: "x" is not a value: use enforce or audit`,
				`line 5: unknown field "wireserver": did you mean "wireServer"?`,
			}},
	} {
		t.Run(name, func(t *testing.T) {
			wantMistakes(t, header+tc.body, tc.want)
		})
	}
}

func TestParseWantsTheTypeNamed(t *testing.T) {
	empty := `the file is empty: start it with "apiVersion: sidestep.dev/v1alpha1" and "kind: AgentConfiguration"`
	for name, tc := range map[string]struct {
		data string
		want []string
	}{
		"empty":       {"", []string{empty}},
		"comments":    {"# nothing yet\n", []string{empty}},
		"null":        {"---\n", []string{empty}},
		"no type":     {"mode: audit\n", []string{`apiVersion is missing: add "apiVersion: sidestep.dev/v1alpha1"`, `kind is missing: add "kind: AgentConfiguration"`}},
		"other type":  {"kind: ConfigMap\napiVersion: v1\n", []string{`line 1: kind: "ConfigMap" is not known to this version: use AgentConfiguration`, `line 2: apiVersion: "v1" is not known to this version: use sidestep.dev/v1alpha1`}},
		"not a table": {"- a\n", []string{"line 1: the file must hold fields"}},
	} {
		t.Run(name, func(t *testing.T) { wantMistakes(t, tc.data, tc.want) })
	}
}

func TestParseTellsTheLineOfBrokenYAML(t *testing.T) {
	_, err := Parse([]byte(header + "scope: {namespaces: [a\nmode: audit\n"))
	if err == nil || !strings.Contains(err.Error(), "line ") {
		t.Errorf("Parse = %v, want an error with a line", err)
	}
}

func TestParseRefusesBadSelectors(t *testing.T) {
	for name, selector := range map[string]string{
		"operator": "{matchExpressions: [{key: a, operator: Is, values: [b]}]}",
		"key":      "{matchLabels: {'a b': c}}",
		"value":    "{matchLabels: {a: 'b c'}}",
		"values":   "{matchExpressions: [{key: a, operator: In}]}",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(header + "exceptions:\n- podSelector: " + selector + "\n"))
			var mistake *Error
			if !errors.As(err, &mistake) || mistake.Line != 4 {
				t.Errorf("Parse = %v, want an error on line 4", err)
			}
		})
	}
}

// No entry of relay.allow may open the node's identity, however IMDS or the
// broker reads it.
func TestParseRefusesRelayPaths(t *testing.T) {
	for _, p := range []string{
		"/metadata/identity", "/metadata/identity/oauth2/token", "/metadata/Identity",
		"/metadata/ident", "/metadata/identityx", "/METADATA/identity",
		"/metadata//identity", "/metadata/./identity", "/metadata/x/../identity",
		"/metadata/%69dentity", "/metadata/identity%2ftoken", `/metadata/identity\token`,
		"/metadata/identity;x", "/metadata/x;y", "/metadata/identity?a=b", "/metadata/attested/",
		"/metadata/", "/metadata", "/", "", "metadata/attested", "/other", "/metadata/..",
		"http://169.254.169.254/metadata/attested", "/metadata/attested\n", "/metadata/\u0131dentity",
	} {
		c := newSource()
		c.validateRelayed("relay.allow[0]", p)
		if c.err() == nil {
			t.Errorf("relay.allow takes %q", p)
		}
	}
	for _, p := range []string{"/metadata/attested/document", "/metadata/instance/compute/userData"} {
		c := newSource()
		c.validateRelayed("relay.allow[0]", p)
		if err := c.err(); err != nil {
			t.Errorf("relay.allow: %v", err)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of no file = %v", err)
	}
	write(t, path, "mode: audit\n")
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("Load = %v, want the path before it", err)
	}
	write(t, path, full)
	if c, err := Load(path); err != nil || c.Mode != ModeAudit {
		t.Errorf("Load = %v, %v", c, err)
	}
}

func wantMistakes(t *testing.T, data string, want []string) {
	t.Helper()
	_, err := Parse([]byte(data))
	if err == nil {
		t.Fatal("Parse took it")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
