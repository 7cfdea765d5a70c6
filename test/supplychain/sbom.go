package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// The files of the image: the Dockerfile has no other, and a new one is to be
// described first.
const (
	agentFile       = "agent"
	authoritiesFile = "etc/ssl/certs/ca-certificates.crt"
)

// writeSBOM describes the image in an archive, as CycloneDX JSON. The same
// image gives the same file: it has no date and no serial number.
func writeSBOM(ctx context.Context, root, archive, version, file string) error {
	img, err := readImage(archive)
	if err != nil {
		return err
	}
	modules, err := modulesOf(ctx, root, "./cmd/agent")
	if err != nil {
		return err
	}
	bom, err := describe(root, img, version, modules)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// describe returns the image as a component, with what is in it: files, the
// modules that the linker wrote into the agent, the toolchain's library and the
// BPF object.
func describe(root string, img *image, version string, modules []module) (*cdx.BOM, error) {
	for name := range img.files {
		if name != agentFile && name != authoritiesFile {
			return nil, fmt.Errorf("the image has the file /%s, which nothing describes", name)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(img.files[agentFile]))
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", agentFile, err)
	}
	parts, err := libraries(info, modules)
	if err != nil {
		return nil, err
	}
	object, err := bpfObject(root, img)
	if err != nil {
		return nil, err
	}
	parts = append(parts, object)
	agent := cdx.Component{
		BOMRef: "agent", Type: cdx.ComponentTypeApplication, Name: "/" + agentFile, Version: version,
		PackageURL: "pkg:golang/" + info.Main.Path + "@" + version, Licenses: expression("Apache-2.0"),
		Hashes: sha256Of(img.files[agentFile]),
	}
	authorities := cdx.Component{
		BOMRef: "authorities", Type: cdx.ComponentTypeFile, Name: "/" + authoritiesFile,
		Description: "Mozilla's certificate authorities, as Debian's ca-certificates has them",
		Licenses:    expression("MPL-2.0"), Hashes: sha256Of(img.files[authoritiesFile]),
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: container(img, version)}
	components := append([]cdx.Component{agent, authorities}, parts...)
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{
		{Ref: bom.Metadata.Component.BOMRef, Dependencies: &[]string{agent.BOMRef, authorities.BOMRef}},
		{Ref: agent.BOMRef, Dependencies: references(parts)},
	}
	return bom, nil
}

func container(img *image, version string) *cdx.Component {
	return &cdx.Component{
		BOMRef: "image", Type: cdx.ComponentTypeContainer, Name: img.name, Version: version,
		PackageURL: "pkg:oci/" + img.name + "@" + strings.Replace(img.digest, ":", "%3A", 1) + "?arch=" + img.architecture,
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: strings.TrimPrefix(img.digest, "sha256:")}},
		Licenses:   expression("Apache-2.0"),
	}
}

// libraries returns the modules that are in the agent by its own word, with
// the licences that their files here are under, and Go's standard library.
func libraries(info *buildinfo.BuildInfo, modules []module) ([]cdx.Component, error) {
	reader, err := newLicenseReader()
	if err != nil {
		return nil, err
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	all := []cdx.Component{{
		BOMRef: "pkg:golang/std@" + version, Type: cdx.ComponentTypeLibrary, Name: "std", Version: version,
		PackageURL: "pkg:golang/std@" + version, Licenses: expression("BSD-3-Clause"),
	}}
	for _, dep := range info.Deps {
		i := slices.IndexFunc(modules, func(m module) bool { return m.Path == dep.Path && m.Version == dep.Version })
		if i < 0 {
			return nil, fmt.Errorf("the agent has %s %s in it, and these sources have not: build the image again", dep.Path, dep.Version)
		}
		found, err := reader.licensesOf(modules[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dep.Path, err)
		}
		hashes, err := moduleHash(dep.Sum)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dep.Path, err)
		}
		url := "pkg:golang/" + dep.Path + "@" + dep.Version
		all = append(all, cdx.Component{
			BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: dep.Path, Version: dep.Version,
			PackageURL: url, Licenses: expression(strings.Join(found, " AND ")), Hashes: hashes,
		})
	}
	return all, nil
}

// moduleHash is the hash of a module's files, as go.sum has it.
func moduleHash(sum string) (*[]cdx.Hash, error) {
	encoded, ok := strings.CutPrefix(sum, "h1:")
	data, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(data) != sha256.Size {
		return nil, fmt.Errorf("%q is not a module's sum", sum)
	}
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(data)}}, nil
}

// bpfObject returns the compiled programs, which the agent bears in itself.
func bpfObject(root string, img *image) (cdx.Component, error) {
	target := map[string]string{"amd64": "x86", "arm64": "arm64"}[img.architecture]
	name := "pkg/intercept/kernel_" + target + "_bpfel.o"
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return cdx.Component{}, err
	}
	if !bytes.Contains(img.files[agentFile], data) {
		return cdx.Component{}, errors.New(name + " is not in the agent: build the image again")
	}
	return cdx.Component{
		BOMRef: name, Type: cdx.ComponentTypeFile, Name: name,
		Description: "BPF programs, which the agent loads into the kernel",
		Licenses:    expression(licenseOfBPF), Hashes: sha256Of(data),
	}, nil
}

func expression(license string) *cdx.Licenses {
	return &cdx.Licenses{{Expression: license}}
}

func sha256Of(data []byte) *[]cdx.Hash {
	sum := sha256.Sum256(data)
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
}

func references(components []cdx.Component) *[]string {
	var all []string
	for _, c := range components {
		all = append(all, c.BOMRef)
	}
	return &all
}
