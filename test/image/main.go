// Command image makes the image of the agent where no container engine runs:
// an OCI archive with what the last stage of the Dockerfile declares, built by
// the commands of its first. It is run in the root of the repository; equal
// sources, toolchain and authorities give an equal archive.
//
//	go run ./test/image --arch amd64 --out out/sidestep-agent-amd64.tar
//	ctr -n k8s.io images import out/sidestep-agent-amd64.tar
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

// options are the flags.
type options struct {
	arch, out, version, name string
}

func main() {
	var o options
	flag.StringVar(&o.arch, "arch", "amd64", "architecture: amd64 or arm64")
	flag.StringVar(&o.out, "out", "", "the archive to write (required)")
	flag.StringVar(&o.version, "version", "unknown", "the version that the agent reports")
	flag.StringVar(&o.name, "name", "", "the image's name (default: the one that manifests/base has)")
	flag.Parse()
	if err := run(context.Background(), ".", o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run makes the image of the repository at root.
func run(ctx context.Context, root string, o options) (err error) {
	if !slices.Contains([]string{"amd64", "arm64"}, o.arch) {
		return fmt.Errorf("--arch: %q is neither amd64 nor arm64", o.arch)
	}
	if o.out == "" {
		return errors.New("--out is required")
	}
	if o.name == "" {
		if o.name, err = manifestImage(filepath.Join(root, "manifests/base/kustomization.yaml")); err != nil {
			return err
		}
	}
	d, err := readDockerfile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		return err
	}
	img, err := d.image(map[string]string{"VERSION": o.version, "TARGETARCH": o.arch})
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "sidestep-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	layer, err := img.files(ctx, builder{root: root, scratch: scratch, arch: o.arch, version: o.version})
	if err != nil {
		return err
	}
	return writeFile(o.out, func(f *os.File) error { return writeArchive(f, img, layer, o.arch, o.name) })
}

// manifestImage returns the image's name as the kustomization sets it.
func manifestImage(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var k struct {
		Images []struct{ Name, NewTag string }
	}
	if err := yaml.Unmarshal(data, &k); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if len(k.Images) != 1 {
		return "", fmt.Errorf("%s: %d images, want 1", path, len(k.Images))
	}
	return k.Images[0].Name + ":" + k.Images[0].NewTag, nil
}

// writeFile makes the file and its directory; on an error nothing is left at
// path.
func writeFile(path string, write func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
