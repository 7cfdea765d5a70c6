package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var (
	pinnedAction = regexp.MustCompile(`^[a-z-]+/[a-z-]+@[0-9a-f]{40}$`)
	versionWord  = regexp.MustCompile(`^# v\d+\.\d+\.\d+$`)
)

// A tag can be moved to other code, a commit cannot. Which version it is, is
// beside it for people and for updates, and is the same everywhere.
func TestActionsArePinned(t *testing.T) {
	pins := map[string]string{}
	for file, document := range workflows(t) {
		for _, uses := range valuesOf(document, "uses") {
			if !pinnedAction.MatchString(uses.Value) || !versionWord.MatchString(uses.LineComment) {
				t.Errorf("%s:%d: %s %s is not pinned by a commit with its version beside it", file, uses.Line, uses.Value, uses.LineComment)
			}
			action, _, _ := strings.Cut(uses.Value, "@")
			pin := uses.Value + " " + uses.LineComment
			if other, ok := pins[action]; ok && other != pin {
				t.Errorf("%s:%d: %s, and elsewhere %s", file, uses.Line, pin, other)
			}
			pins[action] = pin
		}
	}
	if len(pins) == 0 {
		t.Error("no action is used")
	}
}

// Releases are built in the image that the Dockerfile names, everything else
// with the Go that go.mod asks for.
func TestWorkflowsHaveTheToolchainOfTheDockerfile(t *testing.T) {
	base := regexp.MustCompile(`(?m)^FROM \S+ (golang:\S+) AS build$`).FindStringSubmatch(read(t, "Dockerfile"))
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if base == nil || version == nil {
		t.Fatal("no base in the Dockerfile, or no version in go.mod")
	}
	images, versions := 0, 0
	for file, document := range workflows(t) {
		for _, image := range valuesOf(document, "image") {
			images++
			if image.Value != base[1] {
				t.Errorf("%s:%d: %s, the Dockerfile has %s", file, image.Line, image.Value, base[1])
			}
		}
		for _, v := range valuesOf(document, "go-version") {
			versions++
			if v.Value != version[1] {
				t.Errorf("%s:%d: Go %s, go.mod has %s", file, v.Line, v.Value, version[1])
			}
		}
	}
	if images == 0 || versions == 0 {
		t.Errorf("%d images and %d versions of Go are named", images, versions)
	}
}

// Workflows run what anybody can run: targets of the Makefile.
func TestWorkflowsRunTargetsThatAreThere(t *testing.T) {
	targets := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[match[1]] = true
	}
	calls := regexp.MustCompile(`\bmake ([^|\n]*)`)
	used := 0
	check := func(file string, at *yaml.Node, words []string) {
		for _, word := range words {
			if strings.ContainsAny(word, `=$"{`) {
				continue // a variable, or the matrix
			}
			used++
			if !targets[word] {
				t.Errorf("%s:%d: there is no target %s", file, at.Line, word)
			}
		}
	}
	for file, document := range workflows(t) {
		for _, run := range valuesOf(document, "run") {
			for _, call := range calls.FindAllStringSubmatch(run.Value, -1) {
				check(file, run, strings.Fields(call[1]))
			}
		}
		for _, matrix := range valuesOf(document, "target") {
			for _, target := range matrix.Content {
				check(file, target, []string{target.Value})
			}
		}
	}
	if used < 10 {
		t.Errorf("%d targets are run", used)
	}
}

// What `make test` is made of is each a job, so that one that is added runs
// there too.
func TestWorkflowRunsWhatMakeTestRuns(t *testing.T) {
	recipe := regexp.MustCompile(`(?m)^test:.*\n\t@scripts/test\.sh (.+)$`).FindStringSubmatch(read(t, "Makefile"))
	if recipe == nil {
		t.Fatal("the Makefile's recipe of test does not run scripts/test.sh")
	}
	jobs := map[string]bool{}
	for _, document := range workflows(t) {
		for _, matrix := range valuesOf(document, "target") {
			for _, target := range matrix.Content {
				jobs[target.Value] = true
			}
		}
	}
	for _, part := range strings.Fields(recipe[1]) {
		// test-node needs it, and so builds it itself.
		if !jobs[part] && part != "node-build" {
			t.Errorf("no job runs make %s", part)
		}
	}
}

// notUpdated are the modules that updates leave alone, by their reason in
// dependabot.yml.
var notUpdated = []string{"/test/node/k8s"}

// A module that is added is kept up to date, too.
func TestEveryModuleIsUpdated(t *testing.T) {
	var config struct {
		Updates []struct {
			Ecosystem   string   `yaml:"package-ecosystem"`
			Directory   string   `yaml:"directory"`
			Directories []string `yaml:"directories"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, ".github/dependabot.yml")), &config); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, u := range config.Updates {
		dirs := u.Directories
		if u.Directory != "" {
			dirs = append(dirs, u.Directory)
		}
		for _, dir := range dirs {
			found, err := filepath.Glob(filepath.Join(root, dir))
			if err != nil || len(found) == 0 {
				t.Errorf("%s: %s is nowhere, %v", u.Ecosystem, dir, err)
			}
			for _, f := range found {
				if info, err := os.Stat(f); err != nil || !info.IsDir() {
					continue
				}
				got[u.Ecosystem] = append(got[u.Ecosystem], strings.TrimPrefix(filepath.Clean(f), filepath.Clean(root)))
			}
		}
	}
	for ecosystem, file := range map[string]string{"gomod": "go.mod", "npm": "package.json", "docker": "Dockerfile"} {
		want := directoriesWith(t, file)
		want = slices.DeleteFunc(want, func(dir string) bool { return slices.Contains(notUpdated, dir) })
		slices.Sort(got[ecosystem])
		if diff := cmp.Diff(want, got[ecosystem]); diff != "" {
			t.Errorf("%s (-tree +dependabot.yml):\n%s", ecosystem, diff)
		}
	}
	if _, ok := got["github-actions"]; !ok {
		t.Errorf("actions are not updated: %q", slices.Sorted(maps.Keys(got)))
	}
}

// directoriesWith returns the directories of the tree that have such a file,
// as dependabot.yml names them, but without the last slash.
func directoriesWith(t *testing.T, name string) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "out" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if d.Name() == name {
			dirs = append(dirs, strings.TrimPrefix(filepath.Dir(path), filepath.Clean(root)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dirs)
	return dirs
}

// workflows are the documents of .github/workflows by their files.
func workflows(t *testing.T) map[string]*yaml.Node {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, ".github/workflows/*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("workflows %q, %v", files, err)
	}
	all := map[string]*yaml.Node{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var document yaml.Node
		if err := yaml.Unmarshal(data, &document); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[file] = &document
	}
	return all
}

// valuesOf returns the values that a key has anywhere.
func valuesOf(n *yaml.Node, key string) []*yaml.Node {
	var all []*yaml.Node
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == key {
			all = append(all, child)
		}
		all = append(all, valuesOf(child, key)...)
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
