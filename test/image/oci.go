package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// The media types of the OCI image specification, 1.0.
const (
	mediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaTypeConfig   = "application/vnd.oci.image.config.v1+json"
	mediaTypeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// epoch is the time of everything in the archive, so that equal content gives
// an equal archive.
var epoch = time.Unix(0, 0).UTC()

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type imageConfig struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		User       string            `json:"User"`
		Entrypoint []string          `json:"Entrypoint"`
		Cmd        []string          `json:"Cmd"`
		Labels     map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

// archive collects the files of an OCI image layout.
type archive map[string][]byte

// writeArchive writes the image as a tar archive of an OCI image layout, which
// `ctr images import` and other tools read.
func writeArchive(w io.Writer, img *image, files []file, arch, name string) error {
	layer, diffID, err := layerOf(files)
	if err != nil {
		return err
	}
	a := archive{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	layerBlob := a.blob(mediaTypeLayer, layer)
	configBlob := a.blob(mediaTypeConfig, encode(img.config(arch, diffID)))
	m := a.blob(mediaTypeManifest, encode(manifest{
		SchemaVersion: 2, MediaType: mediaTypeManifest, Config: configBlob, Layers: []descriptor{layerBlob},
	}))
	m.Platform = &platform{Architecture: arch, OS: "linux"}
	m.Annotations = map[string]string{
		"io.containerd.image.name":          fullName(name),
		"org.opencontainers.image.ref.name": tag(name),
	}
	a["index.json"] = encode(index{SchemaVersion: 2, Manifests: []descriptor{m}})
	return a.write(w)
}

func (img *image) config(arch, diffID string) imageConfig {
	c := imageConfig{Created: epoch, Architecture: arch, OS: "linux"}
	c.Config.User = img.user
	c.Config.Entrypoint = img.entrypoint
	c.Config.Cmd = img.cmd
	c.Config.Labels = img.labels
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{diffID}
	return c
}

// blob adds a blob and returns what points to it.
func (a archive) blob(mediaType string, data []byte) descriptor {
	digest := digestOf(data)
	a["blobs/"+strings.Replace(digest, ":", "/", 1)] = data
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(data)}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (a archive) write(w io.Writer) error {
	files := make([]file, 0, len(a))
	for name, data := range a {
		files = append(files, file{path: "/" + name, mode: 0o644, data: data})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return writeTar(w, files)
}

// layerOf returns the layer, compressed as every node of a cluster will pull
// it, and its diff ID: the digest of what it is uncompressed. gzip adds neither
// time nor name.
func layerOf(files []file) (layer []byte, diffID string, err error) {
	var plain, packed bytes.Buffer
	if err := writeTar(&plain, files); err != nil {
		return nil, "", err
	}
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		return nil, "", err
	}
	if err := zw.Close(); err != nil {
		return nil, "", err
	}
	return packed.Bytes(), digestOf(plain.Bytes()), nil
}

// writeTar writes the files, which are sorted, each after the directories that
// it is the first to need; everything belongs to root.
func writeTar(w io.Writer, files []file) error {
	tw := tar.NewWriter(w)
	seen := map[string]bool{"/": true}
	for _, f := range files {
		for _, dir := range parents(f.path) {
			if seen[dir] {
				continue
			}
			seen[dir] = true
			h := &tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755, ModTime: epoch}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path[1:], Mode: f.mode, ModTime: epoch, Size: int64(len(f.data))}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// parents returns the directories above p, the highest first.
func parents(p string) []string {
	dir := path.Dir(p)
	if dir == "/" {
		return nil
	}
	return append(parents(dir), dir)
}

// encode panics only for types that JSON cannot hold; none here is.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// fullName is the name as container runtimes store it and as the kubelet asks
// for it: a name without a registry's host is of the one that they all
// default to.
func fullName(name string) string {
	host, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return "docker.io/library/" + name
	case strings.ContainsAny(host, ".:") || host == "localhost":
		return name
	default:
		return "docker.io/" + name
	}
}

func tag(name string) string {
	_, tag, _ := strings.Cut(path.Base(name), ":")
	return tag
}
