package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// enums lists the values of each string type that has a fixed set.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[Mode]():                  {string(ModeEnforce), string(ModeAudit)},
	reflect.TypeFor[Select]():                {string(SelectPod), string(SelectEither)},
	reflect.TypeFor[Unlabeled]():             {string(UnlabeledPass), string(UnlabeledMetadataOnly), string(UnlabeledDeny)},
	reflect.TypeFor[Unknown]():               {string(UnknownHold), string(UnknownPass)},
	reflect.TypeFor[PodIdentityExceptions](): {string(PodIdentityExceptionsIgnore), string(PodIdentityExceptionsHonour)},
	reflect.TypeFor[WireServer]():            {string(WireServerPass), string(WireServerDeny)},
}

// checkDocument notes every place where the document's shape is not that of
// an AgentConfiguration, and the line of every value.
func (s *source) checkDocument(root *yaml.Node) {
	s.check(root, reflect.TypeFor[AgentConfiguration](), "")
}

func (s *source) check(n *yaml.Node, t reflect.Type, path string) {
	s.lines[path] = n.Line
	if n.Kind == yaml.AliasNode {
		s.mistake(n.Line, "%s: YAML aliases are not read here: write the value out", name(path))
		return
	}
	if n.ShortTag() == "!!null" {
		s.mistake(n.Line, "%s has no value: give one, or remove the line to have the default", name(path))
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		s.checkStruct(n, t, path)
	case reflect.Slice:
		s.checkList(n, t, path)
	case reflect.Map:
		s.checkMap(n, t, path)
	default:
		s.checkScalar(n, t, path)
	}
}

func (s *source) checkStruct(n *yaml.Node, t reflect.Type, path string) {
	if !s.isKind(n, yaml.MappingNode, path, "fields") {
		return
	}
	fields := jsonFields(t)
	s.eachPair(n, func(key, value *yaml.Node) {
		ft, ok := fields[key.Value]
		if !ok {
			s.mistake(key.Line, "unknown field %q: %s", join(path, key.Value),
				fix(key.Value, slices.Sorted(maps.Keys(fields))))
			return
		}
		s.check(value, ft, join(path, key.Value))
	})
}

func (s *source) checkList(n *yaml.Node, t reflect.Type, path string) {
	if !s.isKind(n, yaml.SequenceNode, path, "a list") {
		return
	}
	for i, item := range n.Content {
		s.check(item, t.Elem(), element(path, i))
	}
}

func (s *source) checkMap(n *yaml.Node, t reflect.Type, path string) {
	if !s.isKind(n, yaml.MappingNode, path, "names with values") {
		return
	}
	s.eachPair(n, func(key, value *yaml.Node) {
		s.check(value, t.Elem(), join(path, key.Value))
	})
}

// eachPair calls f for each key of a mapping, a repeated one excepted.
func (s *source) eachPair(n *yaml.Node, f func(key, value *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.ShortTag() != "!!str" {
			s.mistake(key.Line, "YAML does not read the name %q as text: put it in quotes", key.Value)
			continue
		}
		if line, ok := first[key.Value]; ok {
			s.mistake(key.Line, "%q is given twice, first on line %d: remove one", key.Value, line)
			continue
		}
		first[key.Value] = key.Line
		f(key, n.Content[i+1])
	}
}

func (s *source) checkScalar(n *yaml.Node, t reflect.Type, path string) {
	if !s.isKind(n, yaml.ScalarNode, path, "a single value") {
		return
	}
	switch t.Kind() {
	case reflect.Bool:
		if n.ShortTag() != "!!bool" {
			s.mistakeAt(path, "%q is neither true nor false", n.Value)
		}
	case reflect.Int:
		// Spellings such as 010 mean eight to YAML and ten to people.
		if i, err := strconv.Atoi(n.Value); err != nil || strconv.Itoa(i) != n.Value || n.ShortTag() != "!!int" {
			s.mistakeAt(path, "%q is not a whole number", n.Value)
		}
	default:
		s.checkString(n, t, path)
	}
}

func (s *source) checkString(n *yaml.Node, t reflect.Type, path string) {
	if n.ShortTag() != "!!str" {
		s.mistakeAt(path, "YAML does not read %s as text: put it in quotes", n.Value)
		return
	}
	if values, ok := enums[t]; ok && !slices.Contains(values, n.Value) {
		s.mistakeAt(path, "%q is not a value: use %s", n.Value, strings.Join(values, " or "))
	}
}

func (s *source) isKind(n *yaml.Node, want yaml.Kind, path, what string) bool {
	if n.Kind == want {
		return true
	}
	s.mistake(n.Line, "%s must hold %s", name(path), what)
	return false
}

// jsonFields returns the types of a struct's fields by their names in JSON.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("json"); tag != "-" { // that is in no file
			tag, _, _ = strings.Cut(tag, ",")
			fields[tag] = t.Field(i).Type
		}
	}
	return fields
}

// name returns how a message calls the value at path.
func name(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
