package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// The programs are built of nothing that would bind whoever builds on them.
func TestCommandsAreUnderAllowedLicences(t *testing.T) {
	file := filepath.Join(t.TempDir(), "licenses.txt")
	var list bytes.Buffer
	if err := checkLicenses(t.Context(), &list, root, file); err != nil {
		t.Fatal(err)
	}
	texts, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"github.com/sidestep-agent/sidestep ", "github.com/cilium/ebpf ", "k8s.io/client-go "} {
		if !strings.Contains(list.String(), "\n"+m) || !strings.Contains(string(texts), "==== "+m) {
			t.Errorf("%sis not in the list and the texts", m)
		}
	}
}

func TestLicensesAreToldByTheirTexts(t *testing.T) {
	apache, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	const isc = "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee " +
		"is hereby granted, provided that the above copyright notice and this permission notice appear in all copies.\n" +
		"THE SOFTWARE IS PROVIDED \"AS IS\" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING " +
		"ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, " +
		"DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, " +
		"WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE " +
		"USE OR PERFORMANCE OF THIS SOFTWARE."
	const gpl = "This program is free software; you can redistribute it and/or modify it under the terms of the GNU " +
		"General Public License as published by the Free Software Foundation; version 2.\n" +
		"This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the " +
		"implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License " +
		"for more details."
	for name, tc := range map[string]struct {
		files   map[string]string
		want    []string
		allowed bool
		err     error
	}{
		"one":                        {files: map[string]string{"LICENSE": string(apache)}, want: []string{"Apache-2.0"}, allowed: true},
		"named otherwise":            {files: map[string]string{"COPYING.txt": isc}, want: []string{"ISC"}, allowed: true},
		"another below":              {files: map[string]string{"LICENSE": string(apache), "a/License.md": isc}, want: []string{"Apache-2.0", "ISC"}, allowed: true},
		"another beside the package": {files: map[string]string{"LICENSE": string(apache), "c/LICENSE": gpl}, want: []string{"Apache-2.0"}, allowed: true},
		"copyleft in the package":    {files: map[string]string{"LICENSE": string(apache), "a/b/LICENSE": gpl}, want: []string{"Apache-2.0", "GPL-2.0"}},
		"none":                       {files: map[string]string{"README": isc}, err: errNoLicense},
		"unknown":                    {files: map[string]string{"LICENSE": "Ask Jane."}, err: errNoLicense},
		"unknown beside a known one": {files: map[string]string{"LICENSE": isc, "LICENSE.2": "Ask Jane."}, err: errNoLicense},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := module{Dir: dir, Packages: []string{filepath.Join(dir, "a", "b")}}
			for file, text := range tc.files {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(m.Packages[0], 0o755); err != nil {
				t.Fatal(err)
			}
			reader, err := newLicenseReader()
			if err != nil {
				t.Fatal(err)
			}
			got, err := reader.licensesOf(m)
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := allowed(got); tc.err == nil && (err == nil) != tc.allowed {
				t.Errorf("allowed(%v) = %v", got, err)
			}
		})
	}
}

// Sources and objects of the kernel's side say the same, and one of the
// licences is one that the kernel takes.
func TestBPFSaysItsLicence(t *testing.T) {
	sources, err := filepath.Glob(filepath.Join(root, "bpf", "*.[ch]"))
	if err != nil || len(sources) < 2 {
		t.Fatalf("sources %q, %v", sources, err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if want := "// SPDX-License-Identifier: " + licenseOfBPF + "\n"; !strings.HasPrefix(string(text), want) {
			t.Errorf("%s does not begin with %s", source, want)
		}
	}
	objects, err := filepath.Glob(filepath.Join(root, "pkg/intercept", "*.o"))
	if err != nil || len(objects) != len(architectures) {
		t.Fatalf("objects %q, %v", objects, err)
	}
	for _, object := range objects {
		f, err := elf.Open(object)
		if err != nil {
			t.Fatal(err)
		}
		data, err := f.Section("license").Data()
		if got := string(bytes.TrimRight(data, "\x00")); err != nil || got != "Dual BSD/GPL" {
			t.Errorf("%s: licence %q, %v", object, got, err)
		}
		f.Close()
	}
}
