package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func octal(mode int64) string { return strconv.FormatInt(mode, 8) }

// The files of an image come from the stage's own commands, run with the
// build's arguments, or from this machine where the stage's base has them.
func TestFilesAreMadeByTheStagesCommands(t *testing.T) {
	repository := t.TempDir()
	authorities := filepath.Join(t.TempDir(), "authorities")
	write(t, authorities, "trusted", 0o600)
	write(t, filepath.Join(repository, "source"), "source of", 0o600)
	d, err := parseDockerfile(`
FROM golang AS build
RUN touch /elsewhere/that/is/not/asked/for
RUN umask 077; echo $(cat source) $TARGETARCH $VERSION > \
    /out/agent && chmod u+x /out/agent
FROM scratch
COPY --from=build /out/agent /agent
COPY --from=build ` + authorities + ` /authorities
`)
	if err != nil {
		t.Fatal(err)
	}
	img, err := d.image(nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := img.files(t.Context(), builder{root: repository, scratch: t.TempDir(), arch: "arm64", version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.path+" "+octal(f.mode)+" "+strings.TrimSpace(string(f.data)))
	}
	want := []string{"/agent 755 source of arm64 v1", "/authorities 644 trusted"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRunRefusesFlags(t *testing.T) {
	for want, o := range map[string]options{
		"--arch": {arch: "s390x", out: "x"},
		"--out":  {arch: "amd64"},
	} {
		if err := run(t.Context(), root, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%+v) = %v, want an error about %s", o, err, want)
		}
	}
}

func TestNothingIsLeftOfAFailedBuild(t *testing.T) {
	out := filepath.Join(t.TempDir(), "deep", "image.tar")
	boom := os.ErrInvalid
	if err := writeFile(out, func(*os.File) error { return boom }); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", out, err)
	}
}

func TestImageIsNamedAsInTheManifests(t *testing.T) {
	got, err := manifestImage(filepath.Join(root, "manifests/base/kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "sidestep-agent:v") {
		t.Errorf("image = %q", got)
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
