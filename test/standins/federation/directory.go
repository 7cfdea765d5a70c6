package federation

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
)

// Directory answers with what a federation file says now, and holds the
// credentials that were added since it was opened. It is safe for concurrent
// use.
type Directory struct {
	path string // empty: there is no file

	mu    sync.Mutex
	text  []byte
	file  File
	added map[string][]Credential // by client id
}

// Open returns the directory of the file at path. The file is read again at
// each use.
func Open(path string) (*Directory, error) {
	d := &Directory{path: path, added: map[string][]Credential{}}
	if _, err := d.Current(); err != nil {
		return nil, err
	}
	return d, nil
}

// Fixed returns a directory without a file.
func Fixed(f File) (*Directory, error) {
	f, err := f.normalized()
	if err != nil {
		return nil, err
	}
	return &Directory{file: f, added: map[string][]Credential{}}, nil
}

// Current returns the directory's content. While the file is missing or
// wrong it is an error: what a test wrote wrong must not pass for what it
// wrote before. The caller must not change the result.
func (d *Directory) Current() (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reread(); err != nil {
		return File{}, err
	}
	return d.file, nil
}

// AddCredential adds a federated credential to the identity of a client. It
// stays when the file changes. The error is ErrTooManyCredentials for the
// 21st, ErrDuplicateCredential, ErrUnknownIdentity, or what Current says.
func (d *Directory) AddCredential(clientID string, c Credential) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reread(); err != nil {
		return err
	}
	added := append(slices.Clone(d.added[clientID]), c)
	file, err := d.file.with(clientID, c)
	if err != nil {
		return err
	}
	d.file, d.added[clientID] = file, added
	return nil
}

// reread reads the file if its content is another than the last time. Content
// and not its time decides: two writes can fall into one tick of the clock.
func (d *Directory) reread() error {
	if d.path == "" {
		return nil
	}
	text, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("federation file: %w", err)
	}
	if d.text != nil && bytes.Equal(text, d.text) {
		return nil
	}
	file, err := Parse(text)
	if err != nil {
		return err
	}
	for clientID, added := range d.added {
		for _, c := range added {
			if file, err = file.with(clientID, c); err != nil {
				return err
			}
		}
	}
	d.text, d.file = text, file
	return nil
}

// with returns a copy of f in which a client has one credential more.
func (f File) with(clientID string, c Credential) (File, error) {
	i := slices.IndexFunc(f.Identities, func(i Identity) bool { return i.ClientID == clientID })
	if i < 0 {
		return File{}, fmt.Errorf("%s: %w", clientID, ErrUnknownIdentity)
	}
	f.Identities = slices.Clone(f.Identities)
	own := &f.Identities[i]
	own.FederatedCredentials = append(slices.Clone(own.FederatedCredentials), f.withDefaults(c))
	if err := own.validate(f); err != nil {
		return File{}, err
	}
	return f, nil
}
