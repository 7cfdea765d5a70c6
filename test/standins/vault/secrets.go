package vault

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxBody       = 64 << 10
	retentionDays = 90
)

var secretName = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)

// operation is a request as the vault understands it.
type operation struct {
	kind    Operation
	name    string
	version string // empty: the latest
}

// parse reads method and path. What it does not know is Unknown.
func parse(r *http.Request) operation {
	parts := strings.FieldsFunc(r.URL.Path, func(c rune) bool { return c == '/' })
	if len(parts) < 2 || !secretName.MatchString(parts[1]) {
		return operation{kind: Unknown}
	}
	op := operation{kind: Unknown, name: parts[1]}
	if len(parts) == 3 {
		op.version = parts[2]
	}
	switch {
	case parts[0] == "secrets" && len(parts) <= 3 && r.Method == http.MethodGet:
		op.kind = Get
	case parts[0] == "secrets" && len(parts) == 2 && r.Method == http.MethodPut:
		op.kind = Set
	case parts[0] == "secrets" && len(parts) == 2 && r.Method == http.MethodDelete:
		op.kind = Delete
	case parts[0] == "deletedsecrets" && len(parts) == 2 && r.Method == http.MethodGet:
		op.kind = GetDeleted
	}
	return op
}

// version is one value that a secret has had.
type version struct {
	id    string
	value string
	tags  map[string]string
	kind  string // contentType
	at    time.Time
}

// secrets are the vault's, by name.
type secrets struct {
	mu      sync.Mutex
	living  map[string][]version // the latest last
	deleted map[string]deletion
}

type deletion struct {
	last version
	at   time.Time
}

func newSecrets() *secrets {
	return &secrets{living: map[string][]version{}, deleted: map[string]deletion{}}
}

// do carries out an operation that is allowed.
func (s *Server) do(r *http.Request, op operation) (any, *refusal) {
	now := s.o.Clock.Now()
	base := "https://" + r.Host
	switch op.kind {
	case Set:
		return s.secrets.set(r, op.name, base, now)
	case Delete:
		return s.secrets.remove(op.name, base, now)
	case GetDeleted:
		return s.secrets.getDeleted(op.name, base)
	}
	return s.secrets.get(op, base)
}

func (s *secrets) set(r *http.Request, name, base string, now time.Time) (any, *refusal) {
	var sent struct {
		Value       *string           `json:"value"`
		ContentType string            `json:"contentType"`
		Tags        map[string]string `json:"tags"`
	}
	body := http.MaxBytesReader(nil, r.Body, maxBody)
	if err := json.NewDecoder(body).Decode(&sent); err != nil || sent.Value == nil {
		return nil, badParameter("Property value is required.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, gone := s.deleted[name]; gone {
		return nil, deletedButRecoverable(name)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	v := version{id: hex.EncodeToString(id), value: *sent.Value, tags: sent.Tags, kind: sent.ContentType, at: now}
	s.living[name] = append(s.living[name], v)
	return v.bundle(name, base), nil
}

func (s *secrets) get(op operation, base string) (any, *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.living[op.name]
	if len(versions) == 0 {
		return nil, secretNotFound(op.name)
	}
	if op.version == "" {
		return versions[len(versions)-1].bundle(op.name, base), nil
	}
	i := slices.IndexFunc(versions, func(v version) bool { return v.id == op.version })
	if i < 0 {
		return nil, secretNotFound(op.name + "/" + op.version)
	}
	return versions[i].bundle(op.name, base), nil
}

func (s *secrets) getDeleted(name, base string) (any, *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.deleted[name]
	if !ok {
		return nil, secretNotFound(name)
	}
	return d.bundle(name, base), nil
}

func (s *secrets) remove(name, base string, now time.Time) (any, *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.living[name]
	if len(versions) == 0 {
		return nil, secretNotFound(name)
	}
	d := deletion{last: versions[len(versions)-1], at: now}
	delete(s.living, name)
	s.deleted[name] = d
	return d.bundle(name, base), nil
}

// bundle returns the secret as the vault shows it; times are Unix seconds.
func (v version) bundle(name, base string) map[string]any {
	b := map[string]any{
		"value": v.value,
		"id":    base + "/secrets/" + name + "/" + v.id,
		"attributes": map[string]any{
			"enabled": true, "created": v.at.Unix(), "updated": v.at.Unix(),
			"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": retentionDays,
		},
	}
	if len(v.tags) > 0 {
		b["tags"] = v.tags
	}
	if v.kind != "" {
		b["contentType"] = v.kind
	}
	return b
}

// bundle returns a deleted secret as the vault shows it: without its value.
func (d deletion) bundle(name, base string) map[string]any {
	b := d.last.bundle(name, base)
	delete(b, "value")
	b["recoveryId"] = base + "/deletedsecrets/" + name
	b["deletedDate"] = d.at.Unix()
	b["scheduledPurgeDate"] = d.at.AddDate(0, 0, retentionDays).Unix()
	return b
}
