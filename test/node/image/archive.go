package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// Image is what to write.
type Image struct {
	Name         string // with a tag: "sidestep.test/pause:1"
	Architecture string // GOARCH of the programs in it
	Config       Config
	Files        []File
}

// Config is the part of an image's configuration that a container starts
// with, named as in the OCI image specification.
type Config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

// The media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Write writes the image to w as a tar that is an OCI image layout and, by its
// manifest.json, a docker archive too: ctr, podman, skopeo and docker load all
// take it. Equal images are equal bytes.
func (i Image) Write(w io.Writer) error {
	content, err := layer(i.Files)
	if err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	a := &archive{out: tar.NewWriter(w)}
	layerBlob := a.blob(typeLayer, content)
	config := a.blob(typeConfig, a.json(map[string]any{
		"architecture": i.Architecture,
		"os":           "linux",
		"config":       i.Config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	}))
	manifest := a.blob(typeManifest, a.json(map[string]any{
		"schemaVersion": 2,
		"mediaType":     typeManifest,
		"config":        config,
		"layers":        []descriptor{layerBlob},
	}))
	// containerd takes the image's name from its own annotation.
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	a.file("index.json", a.json(map[string]any{
		"schemaVersion": 2,
		"mediaType":     typeIndex,
		"manifests":     []descriptor{manifest},
	}))
	a.file("manifest.json", a.json([]map[string]any{{
		"Config":   blobPath(config.Digest),
		"RepoTags": []string{i.Name},
		"Layers":   []string{blobPath(layerBlob.Digest)},
	}}))
	if err := a.close(); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	return nil
}

// archive keeps the first error, which close returns.
type archive struct {
	out *tar.Writer
	err error
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(content)}
	a.file(blobPath(d.Digest), content)
	return d
}

func blobPath(digest string) string { return "blobs/sha256/" + digest[len("sha256:"):] }

func (a *archive) json(value any) []byte {
	content, err := json.Marshal(value)
	if a.err == nil {
		a.err = err
	}
	return content
}

func (a *archive) file(name string, content []byte) {
	if a.err != nil {
		return
	}
	header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatUSTAR}
	if a.err = a.out.WriteHeader(header); a.err == nil {
		_, a.err = a.out.Write(content)
	}
}

func (a *archive) close() error {
	if a.err != nil {
		return a.err
	}
	return a.out.Close()
}
