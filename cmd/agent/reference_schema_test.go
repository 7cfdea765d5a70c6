package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/generated"
)

// The chart takes as its value config what the agent reads as its configuration
// file, and as env the variables that it has a flag for.
func TestReferenceOfChartValues(t *testing.T) {
	s := readSource(t)
	c := s.schema(t, reflect.TypeFor[config.AgentConfiguration](), "")
	c.Description, c.Required = "An AgentConfiguration without apiVersion and kind.", []string{"mode"}
	c.Properties = slices.DeleteFunc(c.Properties, func(p property) bool { return p.name == "apiVersion" || p.name == "kind" })
	var variables []string
	for _, f := range flagsOfRun(t) {
		variables = append(variables, f.Environment)
	}
	slices.Sort(variables)
	generated.Check(t, "../../charts/sidestep-agent/values.schema.json", "testdata/values.schema.json.tmpl", map[string]any{
		"Config": indented(t, c, "    "), "Variables": indented(t, variables, "          "),
	})
}

// schema is what of JSON Schema the file needs, in the order in which people
// read it.
type schema struct {
	Description string     `json:"description,omitempty"`
	Type        string     `json:"type,omitempty"`
	Enum        []string   `json:"enum,omitempty"`
	Pattern     string     `json:"pattern,omitempty"`
	Minimum     int        `json:"minimum,omitempty"`
	MinFields   int        `json:"minProperties,omitempty"`
	Items       *schema    `json:"items,omitempty"`
	Other       any        `json:"additionalProperties,omitempty"` // false, or a schema
	Required    []string   `json:"required,omitempty"`
	Properties  properties `json:"properties,omitempty"`
}

type property struct {
	name   string
	schema *schema
}

// properties keep the order of the fields in Go.
type properties []property

func (all properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, p := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		text, err := json.Marshal(map[string]*schema{p.name: p.schema})
		if err != nil {
			return nil, err
		}
		b.Write(text[1 : len(text)-1])
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

const namespacePattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

// limits are what the types do not say and the agent checks, by the field's
// path in the file: test/manifests shows that both refuse the same.
var limits = map[string]func(*schema){
	"scope.namespaces":         func(s *schema) { s.Items.Pattern = namespacePattern },
	"exceptions":               func(s *schema) { s.Items.MinFields = 1 },
	"exceptions.namespaces":    func(s *schema) { s.Items.Pattern = namespacePattern },
	"relay.allow":              func(s *schema) { s.Items.Pattern = `^/metadata(/[A-Za-z0-9_-]+(\.+[A-Za-z0-9_-]+)*)+$` },
	"limits.requestsPerSecond": func(s *schema) { s.Minimum = 1 },
	"limits.concurrent":        func(s *schema) { s.Minimum = 1 },
}

// schema returns the schema of a type, and of all that is in it.
func (s *source) schema(t *testing.T, of reflect.Type, path string) *schema {
	t.Helper()
	switch of.Kind() {
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int:
		return &schema{Type: "integer"}
	case reflect.Slice:
		return &schema{Type: "array", Items: s.schema(t, of.Elem(), path)}
	case reflect.Map:
		return &schema{Type: "object", Other: s.schema(t, of.Elem(), path)}
	case reflect.Struct:
		return s.structSchema(t, of, path)
	case reflect.String:
		return &schema{Type: "string", Enum: s.words(t, of)}
	}
	t.Fatalf("%s: a %s in the configuration", path, of.Kind())
	return nil
}

func (s *source) structSchema(t *testing.T, of reflect.Type, path string) *schema {
	t.Helper()
	all := &schema{Type: "object", Other: false}
	for i := range of.NumField() {
		member := of.Field(i)
		name, option, _ := strings.Cut(member.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		p := s.schema(t, member.Type, at)
		if limit := limits[at]; limit != nil {
			limit(p)
		}
		if doc := s.docs[of.Name()+"."+member.Name]; of.PkgPath() == reflect.TypeFor[config.Scope]().PkgPath() {
			p.Description = strings.Join(strings.Fields(strings.ReplaceAll(s.prose(doc), "`", "")), " ")
		} else if option == "" { // Kubernetes' own marks what may be left out
			all.Required = append(all.Required, name)
		}
		all.Properties = append(all.Properties, property{name, p})
	}
	return all
}

// words returns the values that a string type has; nil if it has any.
func (s *source) words(t *testing.T, of reflect.Type) (all []string) {
	t.Helper()
	if of == reflect.TypeFor[metav1.LabelSelectorOperator]() {
		return []string{
			string(metav1.LabelSelectorOpIn), string(metav1.LabelSelectorOpNotIn),
			string(metav1.LabelSelectorOpExists), string(metav1.LabelSelectorOpDoesNotExist),
		}
	}
	for _, v := range s.valuesOf(t, of) {
		all = append(all, v.Value)
	}
	return all
}

func indented(t *testing.T, v any, prefix string) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}
