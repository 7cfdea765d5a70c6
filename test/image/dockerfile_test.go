package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// What the Dockerfile declares, written a second time: the agent is root and
// alone, and trusts the authorities that Entra needs.
func TestDockerfileDeclares(t *testing.T) {
	img := declared(t)
	got := map[string]any{
		"user": img.user, "entrypoint": img.entrypoint, "cmd": img.cmd, "labels": img.labels,
	}
	want := map[string]any{
		"user": "0:0", "entrypoint": []string{"/agent"}, "cmd": []string{"run"},
		"labels": map[string]string{
			"org.opencontainers.image.title":       "sidestep-agent",
			"org.opencontainers.image.description": "Gives pods their own Microsoft Entra identity through the instance metadata service",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     "v1.2.3",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var copies []string
	for _, c := range img.copies {
		copies = append(copies, c.from.name+":"+c.source+" "+c.target)
	}
	wantCopies := []string{
		"build:/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"build:/out/agent /agent",
	}
	if diff := cmp.Diff(wantCopies, copies); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

// The toolchain of the build stage must be one that go.mod takes, and the same
// for whoever builds.
func TestDockerfileHasTheGoOfTheModule(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if version == nil {
		t.Fatal("no go directive in go.mod")
	}
	d, err := readDockerfile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	want := `^golang:` + regexp.QuoteMeta(string(version[1])) + `\.\d+-[a-z]+@sha256:[0-9a-f]{64}$`
	if got := d[0].base; !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("the build stage is FROM %s, want %s", got, want)
	}
}

// An instruction that this tool would leave out must not pass.
func TestWhatIsNotKnownIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ last, want string }{
		"instruction":      {"FROM scratch\nHEALTHCHECK NONE", "line 3: HEALTHCHECK"},
		"base":             {"FROM alpine", "FROM alpine"},
		"shell form":       {"FROM scratch\nCMD run", "line 3: CMD"},
		"no such stage":    {"FROM scratch\nCOPY --from=other /a /b", "no stage other"},
		"from the context": {"FROM scratch\nCOPY /a /b", "line 3: COPY"},
		"several files":    {"FROM scratch\nCOPY --from=build /a /b /c/", "line 3: COPY"},
		"directory":        {"FROM scratch\nCOPY --from=build /a /b/", "/b/ is not"},
		"relative":         {"FROM scratch\nCOPY --from=build a /b", "a is not"},
		"undeclared":       {"FROM scratch\nLABEL v=$VERSION", "VERSION is not declared"},
		"open quote":       {"FROM scratch\nLABEL v=\"x", "quote"},
		"no label value":   {"FROM scratch\nLABEL v", "key=value"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parseDockerfile("FROM golang AS build\n" + tc.last + "\n")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.image(nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("image() = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestParseJoinsLinesAndLeavesOutComments(t *testing.T) {
	d, err := parseDockerfile("# a\nFROM --platform=$P golang:1 AS build\n\nrun a \\\n  # b\n  c\nFROM scratch\n")
	if err != nil {
		t.Fatal(err)
	}
	want := dockerfile{
		{base: "golang:1", name: "build", instructions: []instruction{{line: 4, keyword: "RUN", args: "a c"}}},
		{base: "scratch"},
	}
	if diff := cmp.Diff(want, d, cmp.AllowUnexported(stage{}, instruction{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := parseDockerfile("RUN a\n"); err == nil {
		t.Error("an instruction before FROM was taken")
	}
}

func declared(t *testing.T) *image {
	t.Helper()
	d, err := readDockerfile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := d.image(map[string]string{"VERSION": "v1.2.3", "TARGETARCH": "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}
