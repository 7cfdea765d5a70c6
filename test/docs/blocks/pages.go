package blocks

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// skipped are folders whose pages are others'.
var skipped = []string{"node_modules", "out", ".git"}

// Pages returns every Markdown file below root, by its path there.
func Pages(root string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return filepath.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		all[name] = string(text)
		return err
	})
	return all, err
}

// On returns the blocks of one page below root.
func On(root, page string) ([]Block, error) {
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	return Parse(page, string(text))
}

// In returns the blocks of a page that run in a place. That there is none is an
// error: the caller runs them, and would not see it.
func In(root, page, place string) ([]Block, error) {
	all, err := On(root, page)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(b Block) bool { return b.Run != place })
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no block that runs on %s", page, place)
	}
	return all, nil
}
