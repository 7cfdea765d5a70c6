package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowedLicenses ask for no more than to be named, so that whoever builds the
// agent into something of his own may. Copyleft is not among them: the GPL of
// the kernel's side, one of three that it may be taken under, is our own code.
var allowedLicenses = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// licenseOfBPF is that of bpf/ and of the objects made of it. The kernel is
// declared as "Dual BSD/GPL", since it gives some helpers to GPL programs only.
const licenseOfBPF = "Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only"

// allowed returns an error that names the licences which are not.
func allowed(licenses []string) error {
	var errs []error
	for _, l := range licenses {
		if !slices.Contains(allowedLicenses, l) {
			errs = append(errs, fmt.Errorf("licence %s is not one of %s", l, strings.Join(allowedLicenses, ", ")))
		}
	}
	return errors.Join(errs...)
}

// licenseReader tells licences by their text.
type licenseReader struct {
	classifier *classifier.Classifier
}

// newLicenseReader loads the texts, once: that takes a second.
var newLicenseReader = sync.OnceValues(func() (*licenseReader, error) {
	c, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("load the texts of licences: %w", err)
	}
	return &licenseReader{classifier: c}, nil
})

// errNoLicense means that a module has no known licence.
var errNoLicense = errors.New("no licence found")

// licensesOf returns the SPDX identifiers of the licences that the module's
// code in the program is under, sorted: those of its root, and of directories
// between there and a package that have one of their own.
func (r *licenseReader) licensesOf(m module) ([]string, error) {
	files, err := licenseFiles(m)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		names, err := r.read(file)
		if err != nil {
			return nil, err
		}
		found = append(found, names...)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) == 0 {
		return nil, errNoLicense
	}
	return found, nil
}

// read returns the licences whose text, or whose usual notice, is in the file.
// A file that has none is one that we cannot tell, and an error.
func (r *licenseReader) read(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, match := range r.classifier.Match(data).Matches {
		if match.MatchType == "License" || match.MatchType == "Header" {
			names = append(names, match.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: %w: the text is none that is known", file, errNoLicense)
	}
	return names, nil
}

// directories returns the module's root, its packages in the program, and what
// is between.
func directories(m module) []string {
	all := []string{m.Dir}
	for _, dir := range m.Packages {
		for ; len(dir) > len(m.Dir); dir = filepath.Dir(dir) {
			all = append(all, dir)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// licenseFiles returns the module's files that are named as licences.
func licenseFiles(m module) ([]string, error) {
	var files []string
	for _, dir := range directories(m) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && isLicenseName(e.Name()) {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}

func isLicenseName(name string) bool {
	name = strings.ToUpper(name)
	return filepath.Ext(name) != ".GO" &&
		(strings.HasPrefix(name, "LICENSE") || strings.HasPrefix(name, "LICENCE") || strings.HasPrefix(name, "COPYING"))
}
