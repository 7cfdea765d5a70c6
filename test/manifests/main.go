// Command manifests packages the Helm chart (-package DIR), writes the base as
// one file (-install FILE), and renders what manifests/ installs, with another
// image if one is given (-image NAME), for whoever applies it
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
	"regexp"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// options are the flags: where to read, and what to write where.
type options struct {
	manifests, chart         string
	render, install, archive string
	image                    string
}

func main() {
	var o options
	flag.StringVar(&o.manifests, "manifests", "../../manifests", "the manifests")
	flag.StringVar(&o.chart, "chart", "../../charts/sidestep-agent", "the chart")
	flag.StringVar(&o.render, "render", "", "directory for everything rendered")
	flag.StringVar(&o.image, "image", "", "image to render, with its tag or digest (default: as in the manifests)")
	flag.StringVar(&o.install, "install", "", "file for the rendered base, with the image of the manifests")
	flag.StringVar(&o.archive, "package", "", "directory for the chart's archive")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.render == "" && o.install == "" && o.archive == "" {
		return errors.New("one of -render, -install and -package is required")
	}
	if o.install != "" {
		data, err := installFile(o.manifests)
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.install, data, 0o644); err != nil {
			return err
		}
	}
	if o.archive != "" {
		if _, err := packageChart(o.chart, o.archive); err != nil {
			return err
		}
	}
	if o.render != "" {
		return writeAll(o.manifests, o.render, o.image)
	}
	return nil
}

// installHead says in the file what it is, since it must not be edited.
const installHead = `# Rendered from manifests/base, where each line has its reason; do not edit.
# Set the image to the one in your own registry before you apply it.
`

// installFile returns what manifests/install.yaml has to be.
func installFile(from string) ([]byte, error) {
	data, err := render(filepath.Join(from, "base"))
	return append([]byte(installHead), data...), err
}

func writeAll(from, dir, image string) error {
	all, err := renderAll(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range all {
		if image != "" {
			if data, err = withImage(data, image); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var imageLine = regexp.MustCompile(`(?m)^(\s*(?:- )?image: )sidestep-agent:\S+$`)

// withImage puts another image in the place of the one that the text has.
func withImage(data []byte, image string) ([]byte, error) {
	if !imageLine.Match(data) {
		return nil, errors.New("no image of the agent is named")
	}
	return imageLine.ReplaceAllFunc(data, func(line []byte) []byte {
		return append(imageLine.FindSubmatch(line)[1], image...)
	}), nil
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
