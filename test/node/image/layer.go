package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// File is one entry of the layer, root's. One of Source, Link and Dir is set.
type File struct {
	Path   string      // absolute, in the image
	Source string      // the file on this machine whose content it gets
	Link   string      // or what the symbolic link points at
	Dir    bool        // or a directory
	Mode   os.FileMode // permission bits and os.ModeSticky; ignored for a link
}

// layer returns an uncompressed tar of the files and the directories above
// them, sorted and without times, so that equal files make an equal layer.
func layer(files []File) ([]byte, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, f := range withParents(files) {
		if err := f.write(archive); err != nil {
			return nil, fmt.Errorf("add %s: %w", f.Path, err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

func withParents(files []File) []File {
	all := map[string]File{}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Dir: true, Mode: 0o755}
			}
		}
	}
	for _, f := range files {
		all[f.Path] = f
	}
	sorted := make([]File, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return sorted
}

func (f File) write(archive *tar.Writer) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: tarMode(f.Mode), Format: tar.FormatUSTAR}
	var content []byte
	switch {
	case f.Dir:
		header.Typeflag = tar.TypeDir
		header.Name += "/"
	case f.Link != "":
		header.Typeflag = tar.TypeSymlink
		header.Linkname = f.Link
		header.Mode = 0o777
	default:
		var err error
		if content, err = os.ReadFile(f.Source); err != nil {
			return err
		}
		header.Typeflag = tar.TypeReg
		header.Size = int64(len(content))
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

// tarMode is chmod's number: os.FileMode keeps the sticky bit elsewhere.
func tarMode(mode os.FileMode) int64 {
	n := int64(mode.Perm())
	if mode&os.ModeSticky != 0 {
		n |= 0o1000
	}
	return n
}
