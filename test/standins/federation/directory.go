package federation

import (
	"bytes"
	"fmt"
	"os"
	"sync"
)

// Directory answers with what a federation file says now. It is safe for
// concurrent use.
type Directory struct {
	path string // empty: there is no file

	mu   sync.Mutex
	text []byte
	file File
}

// Open returns the directory of the file at path. The file is read again at
// each use.
func Open(path string) (*Directory, error) {
	d := &Directory{path: path}
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
	return &Directory{file: f}, nil
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
	d.text, d.file = text, file
	return nil
}
