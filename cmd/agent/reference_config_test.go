package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/generated"
)

//go:generate go test -count=1 -run ^TestReference . ./daemon -update

// field is one of the configuration file's, by its path in it.
type field struct {
	Path, Type, Default, Doc string
	Values                   []fieldValue
}

type fieldValue struct{ Value, Doc string }

// runFlag is a flag of `agent run`.
type runFlag struct{ Name, Environment, Default, Usage string }

// The list is that of the types that the file is read into, with their own
// docstrings, the defaults of the code and the flags of the command.
func TestReferenceOfConfiguration(t *testing.T) {
	s := readSource(t)
	var defaults map[string]any
	text, err := json.Marshal(config.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &defaults); err != nil {
		t.Fatal(err)
	}
	fields := s.fields(t, reflect.TypeFor[config.AgentConfiguration](), "", defaults)
	generated.Check(t, "../../docs/configuration.md", "testdata/configuration.md.tmpl", map[string]any{
		"Fields": fields, "Flags": flagsOfRun(t),
	})
}

func flagsOfRun(t *testing.T) (all []runFlag) {
	t.Helper()
	commandFlags(t, []string{"run"}).VisitAll(func(f *pflag.Flag) {
		all = append(all, runFlag{f.Name, environmentName(f.Name), f.DefValue, f.Usage})
	})
	return all
}

// source is what stands in the source text of pkg/config.
type source struct {
	docs   map[string]string       // of fields, as "Relay.Allow"
	values map[string][]fieldValue // of the string types
	names  map[string]string       // of fields in the file, by their names in Go
}

func readSource(t *testing.T) *source {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../pkg/config/types.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{map[string]string{}, map[string][]fieldValue{}, map[string]string{}}
	for _, d := range file.Decls {
		if d, ok := d.(*ast.GenDecl); ok {
			for _, spec := range d.Specs {
				s.add(t, spec)
			}
		}
	}
	return s
}

func (s *source) add(t *testing.T, spec ast.Spec) {
	t.Helper()
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		structure, ok := spec.Type.(*ast.StructType)
		if !ok {
			return
		}
		for _, f := range structure.Fields.List {
			tag, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			name := f.Names[0].Name
			s.names[name] = reflect.StructTag(tag).Get("json")
			s.docs[spec.Name.Name+"."+name] = f.Doc.Text()
		}
	case *ast.ValueSpec:
		of, ok := spec.Type.(*ast.Ident)
		if !ok {
			return
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		s.values[of.Name] = append(s.values[of.Name], fieldValue{value, strings.TrimSpace(spec.Comment.Text())})
	}
}

// fields returns those of a struct, and of the structs in it.
func (s *source) fields(t *testing.T, of reflect.Type, path string, defaults map[string]any) (all []field) {
	t.Helper()
	for i := range of.NumField() {
		member := of.Field(i)
		name := member.Tag.Get("json")
		if name == "-" {
			continue // in no file
		}
		f := field{Path: path + name, Doc: s.prose(s.docs[of.Name()+"."+member.Name])}
		if f.Doc == "" {
			t.Errorf("%s.%s has no docstring", of.Name(), member.Name)
		}
		element := member.Type
		if element.Kind() == reflect.Slice {
			element = element.Elem()
		}
		if element.Kind() == reflect.Struct && element.PkgPath() == of.PkgPath() {
			inner, _ := defaults[name].(map[string]any)
			if member.Type.Kind() == reflect.Slice {
				f.Type, f.Default, name = "list", inYAML(t, defaults[name]), name+"[]"
				all = append(all, f)
			}
			all = append(all, s.fields(t, element, path+name+".", inner)...)
			continue
		}
		f.Type, f.Values = typeName(member.Type), s.valuesOf(t, member.Type)
		f.Default = inYAML(t, defaults[name])
		all = append(all, f)
	}
	return all
}

func (s *source) valuesOf(t *testing.T, of reflect.Type) []fieldValue {
	t.Helper()
	for _, v := range s.values[of.Name()] {
		if v.Doc == "" {
			t.Errorf("%s %q has no comment beside it", of.Name(), v.Value)
		}
	}
	return s.values[of.Name()]
}

func typeName(of reflect.Type) string {
	switch of.Kind() {
	case reflect.Slice:
		return "list of " + typeName(of.Elem()) + "s"
	case reflect.Struct:
		return "[label selector](https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors)"
	case reflect.Int:
		return "whole number"
	case reflect.Bool:
		return "true or false"
	}
	return "string"
}

// inYAML returns a default on one line; empty for none.
func inYAML(t *testing.T, v any) string {
	t.Helper()
	if v == nil {
		return ""
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(string(text), `"`)
}

var word = regexp.MustCompile(`[A-Za-z]+`)

// prose returns a docstring with fields by their names in the file.
func (s *source) prose(doc string) string {
	return word.ReplaceAllStringFunc(strings.TrimSpace(doc), func(w string) string {
		if name, ok := s.names[w]; ok {
			return "`" + name + "`"
		}
		return w
	})
}

func TestProseNamesFieldsAsTheFileDoes(t *testing.T) {
	s := readSource(t)
	if got, want := s.prose("Pods outside of Scope and those of Exceptions pass.\n"), "Pods outside of `scope` and those of `exceptions` pass."; got != want {
		t.Errorf("prose = %q, want %q", got, want)
	}
	if !slices.Contains(s.values["Mode"], fieldValue{"enforce", "verdicts take effect"}) {
		t.Errorf("values of Mode: %v", s.values["Mode"])
	}
}
