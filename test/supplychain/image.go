package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// image is what the description of one needs of its archive.
type image struct {
	name         string // without tag
	digest       string // of its manifest: what a registry knows it by
	architecture string
	files        map[string][]byte // of its only layer, by path
}

type descriptor struct {
	Digest      string
	Annotations map[string]string
}

// readImage reads an archive that test/image wrote: an OCI image layout with
// one image of one layer.
func readImage(path string) (*image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	layout, err := readTar(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	img, err := readLayout(layout)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return img, nil
}

func readLayout(layout map[string][]byte) (*image, error) {
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(layout["index.json"], &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%d images, want 1", len(index.Manifests))
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(blob(layout, index.Manifests[0]), &manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(manifest.Layers) != 1 {
		return nil, fmt.Errorf("%d layers, want 1", len(manifest.Layers))
	}
	var config struct{ Architecture string }
	if err := json.Unmarshal(blob(layout, manifest.Config), &config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if !slices.Contains(architectures, config.Architecture) {
		return nil, fmt.Errorf("architecture %q", config.Architecture)
	}
	layer, err := gzip.NewReader(bytes.NewReader(blob(layout, manifest.Layers[0])))
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	files, err := readTar(layer)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	name, _, _ := strings.Cut(index.Manifests[0].Annotations["io.containerd.image.name"], ":")
	return &image{
		name: name[strings.LastIndex(name, "/")+1:], digest: index.Manifests[0].Digest,
		architecture: config.Architecture, files: files,
	}, nil
}

func blob(layout map[string][]byte, d descriptor) []byte {
	return layout["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
}

// readTar returns the regular files by name.
func readTar(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}
