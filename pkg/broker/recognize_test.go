package broker

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
)

// FuzzRecognize looks for a text that is recognized and that net/http reads
// otherwise.
func FuzzRecognize(f *testing.F) {
	for _, seed := range []string{
		get(tokenTarget), get(tokenTarget, "Connection: close"), get(tokenTarget, "Connection:keep-alive", "User-Agent: x y"),
		get(tokenTarget, "X:\t"), get(tokenTarget, "Expect: x"), get(tokenTarget) + "\r\n", get(tokenTarget, "a b: c"),
		request("GET", tokenTarget, "METADATA:  true\t"), get("/metadata/identity/oauth2/token?%zz#x"), get(tokenTarget, "Pragma: no-cache"),
		get(tokenTarget, ": x"), get(tokenTarget, "Connection: close", "Connection: keep-alive"), get(tokenTarget + "&client_id=%00"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		plain, ok := recognize(text)
		if !ok {
			return
		}
		source := bytes.NewReader(text)
		reader := bufio.NewReader(source)
		r, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatalf("%q: net/http reads no request: %v", text, err)
		}
		if left := source.Len() + reader.Buffered(); left != 0 {
			t.Fatalf("%q: net/http leaves %d bytes", text, left)
		}
		_, forwarded := r.Header["X-Forwarded-For"]
		if r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0 || r.TransferEncoding != nil ||
			r.Trailer != nil || r.Host == "" || imdspath.Raw(r.RequestURI) != imdspath.Token || !hasMetadata(r) || forwarded {
			t.Fatalf("%q: net/http reads %+v", text, r)
		}
		if r.Close != plain.close {
			t.Fatalf("%q: the connection ends: %t, in net/http %t", text, plain.close, r.Close)
		}
		for _, name := range []string{"Expect", "Upgrade", "Te", "Http2-Settings"} {
			if _, has := r.Header[name]; has {
				t.Fatalf("%q has the header %s", text, name)
			}
		}
		f := &fastConn{}
		parsed := f.parse(plain.query)
		want, err := tokenParams(r.URL.RawQuery, "")
		if parsed != (err == nil) || parsed && f.request != want {
			t.Fatalf("%q: asks for %+v, %t; in net/http for %+v, %v", text, f.request, parsed, want, err)
		}
	})
}
