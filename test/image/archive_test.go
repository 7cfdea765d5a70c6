package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// content stands for what the build makes: what matters here is where it is.
var content = []file{
	{path: "/agent", mode: 0o755, data: []byte("binary")},
	{path: "/etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: []byte("authorities")},
}

// The archive, read back, is the image that the Dockerfile declares.
func TestArchiveIsWhatTheDockerfileDeclares(t *testing.T) {
	img := declared(t)
	if len(img.copies) != len(content) {
		t.Fatalf("the Dockerfile copies %d files, this test knows %d", len(img.copies), len(content))
	}
	blobs, m := readBack(t, writeImage(t, img))

	var config imageConfig
	decode(t, blobs[m.Config.Digest], &config)
	if len(m.Layers) != 1 {
		t.Fatalf("%d layers, want 1", len(m.Layers))
	}
	layer := unpacked(t, blobs[m.Layers[0].Digest])
	if diff := cmp.Diff(img.config("arm64", digestOf(layer)), config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if config.Config.User != img.user || !cmp.Equal(config.Config.Entrypoint, img.entrypoint) ||
		!cmp.Equal(config.Config.Cmd, img.cmd) || !cmp.Equal(config.Config.Labels, img.labels) {
		t.Errorf("config %+v is not of the image %+v", config.Config, img)
	}
	got := entries(t, layer)
	want := []string{
		"/agent 755 binary", "/etc/ 755 ", "/etc/ssl/ 755 ", "/etc/ssl/certs/ 755 ",
		"/etc/ssl/certs/ca-certificates.crt 644 authorities",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// unpacked is the layer as its diff ID means it.
func unpacked(t *testing.T, layer []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestArchiveIsReproducible(t *testing.T) {
	img := declared(t)
	if !bytes.Equal(writeImage(t, img), writeImage(t, img)) {
		t.Error("two archives of the same image differ")
	}
}

func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"sidestep-agent:v1":      "docker.io/library/sidestep-agent:v1",
		"team/agent:v1":          "docker.io/team/agent:v1",
		"localhost/agent:v1":     "localhost/agent:v1",
		"example.org/agent:v1":   "example.org/agent:v1",
		"example:5000/a/agent:1": "example:5000/a/agent:1",
	} {
		if got := fullName(name); got != want {
			t.Errorf("fullName(%s) = %s, want %s", name, got, want)
		}
	}
	if got := tag("example:5000/agent:v1"); got != "v1" {
		t.Errorf("tag = %s", got)
	}
}

func writeImage(t *testing.T, img *image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeArchive(&b, img, content, "arm64", "sidestep-agent:v1.2.3"); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readBack reads an OCI image layout as the specification says, checks every
// size and digest, and returns the blobs by digest and the only manifest.
func readBack(t *testing.T, data []byte) (map[string][]byte, manifest) {
	t.Helper()
	files := map[string][]byte{}
	for h, content := range tarEntries(t, data) {
		files[h.Name] = content
	}
	if got := string(files["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout = %s", got)
	}
	var ix index
	decode(t, files["index.json"], &ix)
	if len(ix.Manifests) != 1 {
		t.Fatalf("%d manifests, want 1", len(ix.Manifests))
	}
	if got := ix.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/library/sidestep-agent:v1.2.3" {
		t.Errorf("image name = %q", got)
	}
	var m manifest
	decode(t, blob(t, files, ix.Manifests[0]), &m)
	blobs := map[string][]byte{}
	for _, d := range append(m.Layers, m.Config) {
		blobs[d.Digest] = blob(t, files, d)
	}
	return blobs, m
}

// blob returns the content that d points to.
func blob(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	hash, _ := strings.CutPrefix(d.Digest, "sha256:")
	data := files["blobs/sha256/"+hash]
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != hash || len(data) != d.Size {
		t.Fatalf("%s: the blob is not what its descriptor says", d.Digest)
	}
	return data
}

// entries lists a layer: path, mode and content; everything must be root's.
func entries(t *testing.T, layer []byte) []string {
	t.Helper()
	var all []string
	for h, content := range tarEntries(t, layer) {
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) {
			t.Errorf("%s: owner %d:%d, time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		all = append(all, "/"+h.Name+" "+octal(h.Mode)+" "+string(content))
	}
	return all
}

// tarEntries yields the headers of a tar archive with their content.
func tarEntries(t *testing.T, data []byte) iter.Seq2[*tar.Header, []byte] {
	return func(yield func(*tar.Header, []byte) bool) {
		tr := tar.NewReader(bytes.NewReader(data))
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(h, content) {
				return
			}
		}
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
