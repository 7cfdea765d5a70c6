// Command supplychain tells what the agent's image is made of, and under which
// licences:
//
//	go -C test/supplychain run . -licenses FILE
//	go -C test/supplychain run . -image ARCHIVE -version VERSION -sbom FILE
//
// The first lists the modules that the commands are built of, fails where a
// licence is not allowed, and writes the texts of all into the file, for
// whoever passes the programs on. The second reads an image of test/image and writes
// a CycloneDX document. Its tests hold the repository to what it promises of
// its supply chain: licences, pinned actions and images, updates.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

func main() {
	root := flag.String("root", "../..", "the repository")
	licenses := flag.String("licenses", "", "file for the texts of licences")
	image := flag.String("image", "", "archive of an image, to describe")
	version := flag.String("version", "unknown", "the image's version")
	sbom := flag.String("sbom", "", "file for the description")
	flag.Parse()
	err := errors.New("-licenses, or -image and -sbom are required")
	switch {
	case *licenses != "":
		err = checkLicenses(context.Background(), os.Stdout, *root, *licenses)
	case *image != "" && *sbom != "":
		err = writeSBOM(context.Background(), *root, *image, *version, *sbom)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "supplychain:", err)
		os.Exit(1)
	}
}

// checkLicenses writes a line for each module of the commands, and the texts
// into the file. It returns an error that names the modules whose licences are
// not allowed.
func checkLicenses(ctx context.Context, w io.Writer, root, file string) error {
	modules, err := modulesOf(ctx, root, "./cmd/...")
	if err != nil {
		return err
	}
	if err := listLicenses(w, modules); err != nil {
		return err
	}
	texts, err := licenseTexts(modules)
	if err != nil {
		return err
	}
	return os.WriteFile(file, texts, 0o644)
}

func listLicenses(w io.Writer, modules []module) error {
	reader, err := newLicenseReader()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var errs []error
	for _, m := range modules {
		found, err := reader.licensesOf(m)
		if err == nil {
			err = allowed(found)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Path, err))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.Path, m.Version, strings.Join(found, " AND "))
	}
	return errors.Join(append(errs, table.Flush())...)
}

// licenseTexts returns the licences' files, each under the module's name.
func licenseTexts(modules []module) ([]byte, error) {
	var all bytes.Buffer
	for _, m := range modules {
		files, err := licenseFiles(m)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&all, "==== %s %s, %s\n\n%s\n", m.Path, m.Version, filepath.Base(file), text)
		}
	}
	return all.Bytes(), nil
}
