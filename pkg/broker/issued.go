package broker

import (
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// issued is a token as IMDS answers it, made once for all who get it: its
// fields in IMDS's order, each a string, since clients break on numbers.
type issued struct {
	resource             string
	notBefore, expiresOn time.Time
	// before, between and after stand around the seconds left, expires_in and
	// ext_expires_in.
	before, between, after string

	last atomic.Pointer[sent]
}

// sent is the answer as it was sent last. It is the same for a second.
type sent struct {
	second, left int64
	whole        []byte // header and body
	header       int    // the header's length without the empty line
	body         []byte
}

// issuedAs returns the answer to those who asked for the token by that
// resource.
func issuedAs(t workload.Token, resource string) *issued {
	i, ok := t.Made.Load().(*issued)
	// The times are others once the clock was set.
	if ok && i.resource == resource && i.notBefore.Equal(t.NotBefore) && i.expiresOn.Equal(t.ExpiresOn) {
		return i
	}
	i = &issued{
		resource: resource, notBefore: t.NotBefore, expiresOn: t.ExpiresOn,
		before: `{"access_token":` + quoted(t.Value) + `,"client_id":` + quoted(t.ClientID) +
			`,"expires_in":"`,
		between: `","expires_on":"` + seconds(t.ExpiresOn.Unix()) + `","ext_expires_in":"`,
		after: `","not_before":"` + seconds(t.NotBefore.Unix()) + `","resource":` + quoted(resource) +
			`,"token_type":` + quoted(t.Type) + `}`,
	}
	t.Made.Store(i)
	return i
}

func quoted(s string) string { return string(encode(s)) }

func seconds(n int64) string { return strconv.FormatInt(n, 10) }

// at returns the answer at that time. The caller must not change it.
func (i *issued) at(now time.Time) *sent {
	second, left := now.Unix(), int64(max(i.expiresOn.Sub(now), 0)/time.Second)
	s := i.last.Load()
	if s == nil || s.second != second || s.left != left {
		s = i.send(second, left)
		i.last.Store(s)
	}
	return s
}

// send writes the answer out, byte for byte as net/http would.
func (i *issued) send(second, left int64) *sent {
	length := len(i.before) + len(i.between) + len(i.after) + 2*len(seconds(left))
	whole := append([]byte(nil), "HTTP/1.1 200 OK\r\nContent-Length: "...)
	whole = strconv.AppendInt(whole, int64(length), 10)
	whole = append(whole, "\r\nContent-Type: "+contentJSON+"\r\nDate: "...)
	whole = time.Unix(second, 0).UTC().AppendFormat(whole, http.TimeFormat)
	whole = append(whole, "\r\n"...)
	header := len(whole)
	whole = slices.Grow(append(whole, "\r\n"...), length)
	body := len(whole)
	whole = append(whole, i.before...)
	whole = strconv.AppendInt(whole, left, 10)
	whole = append(whole, i.between...)
	whole = strconv.AppendInt(whole, left, 10)
	whole = append(whole, i.after...)
	return &sent{second: second, left: left, whole: whole, header: header, body: whole[body:]}
}

// closing returns the answer with the word that the connection ends with it.
func (s *sent) closing() []byte {
	return slices.Concat(s.whole[:s.header], []byte("Connection: close\r\n"), s.whole[s.header:])
}
