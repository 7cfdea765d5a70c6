package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
)

const root = "../.."

// pages returns every Markdown file of the repository, by its path below root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all, err := blocks.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	block   = regexp.MustCompile("(?ms)^ *```\\w*\n.*?^ *```$")
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the names that GitHub gives a page's headings.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(block.ReplaceAllString(page, ""), -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(h[1]), "")
		all[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return all
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := pages(t)
	if len(all) < 20 {
		t.Fatalf("found %d pages only", len(all))
	}
	for name, page := range all {
		for _, l := range link.FindAllStringSubmatch(block.ReplaceAllString(page, ""), -1) {
			path, anchor, _ := strings.Cut(l[1], "#")
			if strings.Contains(path, "://") || strings.HasPrefix(path, "mailto:") {
				continue
			}
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if anchor != "" && !anchors(all[target])[anchor] {
				t.Errorf("%s: %s has no heading %s", name, target, anchor)
			}
		}
	}
}

// Who reads the one README runs the commands of the other.
func TestReadmesHaveTheSameCommands(t *testing.T) {
	all := pages(t)
	english, japanese := block.FindAllString(all["README.md"], -1), block.FindAllString(all["README.ja.md"], -1)
	if diff := cmp.Diff(english, japanese); diff != "" || len(english) == 0 {
		t.Errorf("blocks (-README.md +README.ja.md):\n%s", diff)
	}
}
