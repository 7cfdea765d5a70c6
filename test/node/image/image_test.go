package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, i Image) map[string][]byte {
	t.Helper()
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := i.Write(w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("one image, two archives")
	}
	content := map[string][]byte{}
	for reader := tar.NewReader(&first); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return content
		}
		if err != nil {
			t.Fatal(err)
		}
		if content[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
}

func program(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(name, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestArchive(t *testing.T) {
	config := Config{User: "65532:65532", Entrypoint: []string{"/agent", "run"}, Labels: map[string]string{"a": "b"}}
	content := write(t, Image{
		Name: "sidestep.test/agent:1", Architecture: "arm64", Config: config,
		Files: []File{{Path: "/agent", Source: program(t), Mode: 0o755}},
	})
	for name, blob := range content {
		sum := sha256.Sum256(blob)
		if path.Dir(name) == "blobs/sha256" && path.Base(name) != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has another digest", name)
		}
	}
	var index struct{ Manifests []descriptor }
	decode(t, content["index.json"], &index)
	if name := index.Manifests[0].Annotations["io.containerd.image.name"]; name != "sidestep.test/agent:1" {
		t.Errorf("containerd would name it %q", name)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, content[blobPath(index.Manifests[0].Digest)], &manifest)
	var configured struct {
		Architecture, OS string
		Config           Config
		RootFS           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, content[blobPath(manifest.Config.Digest)], &configured)
	if diff := cmp.Diff(config, configured.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if configured.Architecture != "arm64" || configured.OS != "linux" || configured.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Errorf("configuration %+v with layers %+v", configured, manifest.Layers)
	}
	var docker []struct{ Config string }
	decode(t, content["manifest.json"], &docker)
	if docker[0].Config != blobPath(manifest.Config.Digest) {
		t.Errorf("docker would take %s for the configuration", docker[0].Config)
	}
}

func TestLayer(t *testing.T) {
	raw, err := layer([]File{
		{Path: "/usr/bin/agent", Source: program(t), Mode: 0o755},
		{Path: "/bin/sh", Link: "/usr/bin/agent"},
		{Path: "/tmp", Dir: true, Mode: 0o777 | os.ModeSticky},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for reader := tar.NewReader(bytes.NewReader(raw)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 {
			t.Errorf("%s is not root's", header.Name)
		}
		got = append(got, header.FileInfo().Mode().String()+" "+header.Name+" "+header.Linkname)
	}
	want := []string{
		"drwxr-xr-x bin/ ", "Lrwxrwxrwx bin/sh /usr/bin/agent", "dtrwxrwxrwx tmp/ ",
		"drwxr-xr-x usr/ ", "drwxr-xr-x usr/bin/ ", "-rwxr-xr-x usr/bin/agent ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	if err := (Image{Name: "x", Files: []File{{Path: "/a", Source: "/does/not/exist"}}}).Write(io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
