package broker

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzTokenParams looks for a query whose parameters are read otherwise than a
// standard parser reads them: one that selects an identity must never be
// overlooked.
func FuzzTokenParams(f *testing.F) {
	for _, seed := range []string{
		"api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net", "resource=a&client_id=b", "resource=a&Client_ID=b",
		"resource=a&client%5fid=b&object_id=", "resource=a&principal_id=b", "resource=a&msi-res-id=%2Fsubscriptions%2Fx",
		"resource=a&resource=b", "resource=%zz", "resource=a&client_id=%ff", "resource=a;client_id=b", "resource=a+b&bypass_cache=True",
		"&&=&resource=a&=b", "resource=a&client_id=b&mi_res_id=c", "%", "resource=a&%63lient_id",
	} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	f.Fuzz(func(t *testing.T, query, form string) {
		got, err := tokenParams(query, form)
		if bad := (*badParamsError)(nil); err != nil && !errors.As(err, &bad) {
			t.Fatalf("%q, %q: %v is not for the caller", query, form, err)
		}
		if err != nil {
			return
		}
		asked := map[parameter][]string{}
		for _, raw := range []string{query, form} {
			values, _ := url.ParseQuery(raw) // what it cannot read it leaves out
			for name, all := range values {
				if one, ok := parameters[strings.ToLower(name)]; ok {
					asked[one] = append(asked[one], all...)
				}
			}
		}
		for name, value := range map[parameter]string{
			resource: got.Resource, clientID: got.ClientID, objectID: got.ObjectID, resourceID: got.ResourceID,
		} {
			if all := asked[name]; len(all) > 1 || len(all) == 1 && all[0] != value {
				t.Fatalf("%q, %q: %d is %q, read as %q", query, form, name, all, value)
			}
			if !utf8.ValidString(value) {
				t.Fatalf("%q, %q: %d is %q", query, form, name, value)
			}
		}
		if got.Resource == "" || got.ClientID != "" && got.ObjectID+got.ResourceID != "" || got.ObjectID != "" && got.ResourceID != "" {
			t.Fatalf("%q, %q: %+v", query, form, got)
		}
	})
}
