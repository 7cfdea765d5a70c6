package commands

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func TestWordIsOneWord(t *testing.T) {
	for _, word := range []string{
		"", "plain", "a b", "it's", `"`, "$(id)", "`id`", "a\nb", "--flag=x", "~", "*", "a;b", `\`, "é",
	} {
		printed, err := exec.CommandContext(t.Context(), "sh", "-c", "printf '[%s]' "+Word(word)).Output()
		if err != nil || string(printed) != "["+word+"]" {
			t.Errorf("Word(%q) is %q to a shell (%v)", word, printed, err)
		}
	}
	if got := Word("system:serviceaccount:shop/cart"); strings.Contains(got, "'") {
		t.Errorf("%s is quoted without need", got)
	}
}

func TestCredentialNamesDifferAndFit(t *testing.T) {
	long := strings.Repeat("a", 63)
	entraTakes := regexp.MustCompile(`^[a-zA-Z0-9_-]{3,120}$`)
	seen := map[string]bool{}
	for _, of := range []struct{ namespace, account, issuer string }{
		{"a-b", "c", ""},
		{"a", "b-c", ""},
		{"a", "b.c", ""},
		{"a", "b.c", "https://other"},
		{long, long + "." + long, ""},
	} {
		name := CredentialName(of.namespace, of.account, of.issuer, "system:serviceaccount:"+of.namespace+":"+of.account)
		if seen[name] || !entraTakes.MatchString(name) {
			t.Errorf("name %q", name)
		}
		seen[name] = true
	}
	if name := CredentialName("shop", "cart.v2", "", ""); !strings.HasPrefix(name, "shop-cart-v2-") {
		t.Errorf("%s does not say whose it is", name)
	}
}
