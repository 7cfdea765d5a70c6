package row

import "testing"

func TestParse(t *testing.T) {
	r := Row{Fault: "disk full", Expected: "served", Seen: "12 tokens | 0 refused"}
	for line, want := range map[string]bool{
		r.String(): true,
		"    disk_test.go:12: " + r.String() + "\n": true,
		"fault: no more than a name":                false,
		"a fault | of some | kind":                  false,
	} {
		got, ok := Parse(line)
		if ok != want || (ok && got != r) {
			t.Errorf("%q: %+v, %t", line, got, ok)
		}
	}
}
