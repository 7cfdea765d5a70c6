package relay

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestScrub(t *testing.T) {
	for doc, want := range map[string]string{
		`{"compute":{"name":"a","userData":"s3","zone":""}}`:   `{"compute":{"name":"a","zone":""}}`,
		`{"userData":"s3","a":1}`:                              `{"a":1}`,
		`{ "userData" : {"x":["s3"]} , "USERDATA":2, "a" :1 }`: `{ "a" :1 }`,
		`{"a":1, "userData":"s3"}`:                             `{"a":1}`,
		`{"userData":"s3"}`:                                    `{}`,
		`{"user\u0044ata":"s3","b":[]}`:                        `{"b":[]}`,
		`[{"userdata":"s3"},{"n":1e999},null,"userData"]`:      `[{},{"n":1e999},null,"userData"]`,
		"{\n  \"a\": \"\\u00e4<\",\n  \"userData\": \"s3\"\n}": "{\n  \"a\": \"\\u00e4<\"\n}",
		`{"a":12345678901234567890.10,"a":{}}`:                 `{"a":12345678901234567890.10,"a":{}}`,
		` "text" `:                                             ` "text" `,
	} {
		got, err := scrub([]byte(doc))
		if err != nil || string(got) != want {
			t.Errorf("scrub(%s) = %s, %v, want %s", doc, got, err, want)
		}
	}
}

func FuzzScrub(f *testing.F) {
	for _, seed := range []string{
		`{"compute":{"userData":"s","a":1}}`, `{"userData":1,"USERDATA":2}`, `[{"userData":{}} , {"a":{"userdata":[]},"b":2}]`, `{"a":1}`, `""`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		if !json.Valid([]byte(doc)) {
			return
		}
		got, err := scrub([]byte(doc))
		if err != nil {
			t.Fatalf("scrub(%q): %v", doc, err)
		}
		var v any
		if err := json.Unmarshal(got, &v); err != nil && !strings.Contains(doc, "e") && !strings.Contains(doc, "E") {
			t.Fatalf("scrub(%q) = %q: %v", doc, got, err)
		}
		if holdsUserData(v) {
			t.Fatalf("scrub(%q) = %q still has user data", doc, got)
		}
		if !strings.Contains(strings.ToLower(doc), "user") && !strings.Contains(doc, `\`) && string(got) != doc && !strings.ContainsRune(doc, 'ſ') {
			t.Fatalf("scrub(%q) = %q, though there is nothing to take out", doc, got)
		}
	})
}

func holdsUserData(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if strings.EqualFold(name, "userData") || holdsUserData(member) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if holdsUserData(element) {
				return true
			}
		}
	}
	return false
}

func TestTextWithoutUserData(t *testing.T) {
	for _, test := range []struct {
		path, body string
		ok         bool
	}{
		{"/metadata/instance", "compute/\nnetwork/\n", true},
		{"/metadata/instance/compute/", "location\r\nuserData\r\n", true},
		{"/metadata/instance/compute", "userData: c2VjcmV0", false},
		{"/METADATA/instance", "\xef\xbb\xbf{\"userData\":1}", false},
		{"/metadata", `{"userData":`, false},
		{"/metadata/instance/compute/tags", "{a:b", true},
	} {
		got, err := withoutUserData(test.path, []byte(test.body))
		if test.ok && (err != nil || string(got) != test.body) || !test.ok && !errors.Is(err, errNotScrubbed) {
			t.Errorf("withoutUserData(%q, %q) = %q, %v", test.path, test.body, got, err)
		}
	}
}
