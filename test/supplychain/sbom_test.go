package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The description of a real image: what is in it, by what it says itself.
func TestSBOMDescribesTheImage(t *testing.T) {
	dir := t.TempDir()
	archive, file := filepath.Join(dir, "image.tar"), filepath.Join(dir, "sbom.json")
	build := exec.CommandContext(t.Context(), "go", "run", "./test/image", "--version", "v9", "--out", archive)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := writeSBOM(t.Context(), root, archive, "v9", file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	validate(t, data)

	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	img, err := readImage(archive)
	if err != nil {
		t.Fatal(err)
	}
	if top := bom.Metadata.Component; top.Name != "sidestep-agent" || top.Version != "v9" ||
		"sha256:"+(*top.Hashes)[0].Value != img.digest {
		t.Errorf("the component is %s %s %v, want sidestep-agent v9 %s", top.Name, top.Version, *top.Hashes, img.digest)
	}
	names := map[string]cdx.Component{}
	for _, c := range *bom.Components {
		names[c.Name] = c
		if c.Licenses == nil || len(*c.Licenses) != 1 || (*c.Licenses)[0].Expression == "" {
			t.Errorf("%s has no licence", c.Name)
		}
	}
	for name, content := range img.files {
		if diff := cmp.Diff(sha256Of(content), names["/"+name].Hashes); diff != "" {
			t.Errorf("/%s (-want +got):\n%s", name, diff)
		}
	}
	for _, name := range []string{"std", "github.com/cilium/ebpf", "k8s.io/client-go", "pkg/intercept/kernel_x86_bpfel.o"} {
		if _, ok := names[name]; !ok {
			t.Errorf("%s is not described", name)
		}
	}
	if got := (*names["pkg/intercept/kernel_x86_bpfel.o"].Licenses)[0].Expression; got != licenseOfBPF {
		t.Errorf("the BPF object's licence is %s", got)
	}
	again := filepath.Join(dir, "again.json")
	if err := writeSBOM(t.Context(), root, archive, "v9", again); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(again); err != nil || !bytes.Equal(data, second) {
		t.Errorf("described again it is another text, %v", err)
	}
}

// An image of other sources, or with unknown files, is not described
// as if it were of these.
func TestOtherImagesAreRefused(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for want, files := range map[string]map[string][]byte{
		"nothing describes": {"agent": program, "bin/sh": nil},
		"/agent: ":          {"agent": []byte("#!/bin/sh")},
		"build the image":   {"agent": program},
	} {
		img := &image{architecture: "amd64", files: files}
		if _, err := describe(root, img, "v1", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("describe(%q) = %v, want an error with %q", keys(files), err, want)
		}
	}
}

func keys(m map[string][]byte) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// validate holds the document to CycloneDX's own schema, which the library
// brings along.
func validate(t *testing.T, document []byte) {
	t.Helper()
	schemas := filepath.Join(directoryOf(t, "github.com/CycloneDX/cyclonedx-go"), "schema")
	compiler := jsonschema.NewCompiler()
	for _, name := range []string{"bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schemax.json"} {
		data, err := os.ReadFile(filepath.Join(schemas, name))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+strings.Replace(name, "schemax", "schema", 1), parsed); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(parsed); err != nil {
		t.Error(err)
	}
}

func directoryOf(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
