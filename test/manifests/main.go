// Command manifests renders what manifests/ installs, for whoever applies it
// without a kustomize of his own:
//
//	go -C test/manifests run . -render DIR
//
// writes DIR/base.yaml, DIR/uninstall.yaml, DIR/uninstall-boot-guard.yaml,
// DIR/check-job.yaml and DIR/<overlay>.yaml for each overlay. Its tests are the
// reason for the module: they read what is rendered as the API server would.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	from := flag.String("manifests", "../../manifests", "the manifests")
	dir := flag.String("render", "", "where the rendered files go (required)")
	flag.Parse()
	if err := run(*from, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(from, dir string) error {
	if dir == "" {
		return errors.New("-render is required")
	}
	all, err := renderAll(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range all {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// renderAll returns what `kubectl apply -k` would send for the base, for each
// overlay and to uninstall, and the files that are applied as they are, by name.
func renderAll(from string) (map[string][]byte, error) {
	overlays, err := filepath.Glob(filepath.Join(from, "overlays", "*", "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, path := range overlays {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, name := range []string{"base", "uninstall", "uninstall-boot-guard"} {
		dirs = append(dirs, filepath.Join(from, name))
	}
	all := map[string][]byte{}
	for _, dir := range dirs {
		if all[filepath.Base(dir)], err = render(dir); err != nil {
			return nil, fmt.Errorf("render %s: %w", dir, err)
		}
	}
	const job = "check-job"
	all[job], err = os.ReadFile(filepath.Join(from, job+".yaml"))
	return all, err
}

func render(dir string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	// As kubectl does: what others need, such as the namespace, comes first.
	options.Reorder = krusty.ReorderOptionUnspecified
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return resources.AsYaml()
}
