package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Error is one mistake in a configuration file.
type Error struct {
	Line    int    // counted from 1; 0 where the file as a whole is meant
	Problem string // what is wrong and how to fix it
}

// Error returns the line and the problem.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Problem
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
}

// Load reads and parses the file at path. Its errors are those of os.ReadFile
// and of Parse, with the path before them.
func Load(path string) (*AgentConfiguration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse returns the configuration that data describes in YAML, with defaults
// for every field not given. Every mistake that it finds is an *Error in the
// joined error that it returns, ordered by line.
func Parse(data []byte) (*AgentConfiguration, error) {
	root, err := document(data)
	if err != nil {
		return nil, err
	}
	s := newSource()
	s.checkDocument(root)
	if err := s.err(); err != nil {
		return nil, err
	}
	c, err := decode(root, s)
	if err != nil {
		return nil, err
	}
	s.validate(c)
	if err := s.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// document returns the root of the one YAML document in data.
func document(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && doc.Content[0].ShortTag() == "!!null" {
		return nil, &Error{Problem: fmt.Sprintf(
			"the file is empty: start it with \"apiVersion: %s\" and \"kind: %s\"", APIVersion, Kind)}
	}
	if err != nil {
		return nil, &Error{Problem: err.Error()}
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		return nil, &Error{Line: next.Line, Problem: "a second YAML document begins here: keep one document in the file"}
	} else if !errors.Is(err, io.EOF) {
		return nil, &Error{Problem: err.Error()}
	}
	return doc.Content[0], nil
}

// decode lays a checked document over the defaults.
func decode(root *yaml.Node, s *source) (*AgentConfiguration, error) {
	var tree any
	if err := root.Decode(&tree); err != nil {
		return nil, &Error{Problem: err.Error()}
	}
	// By way of JSON, since the API's types bear JSON tags only.
	text, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	c := Default()
	if s.given("exceptions") {
		// The decoder would reuse the default element and leave its selector
		// in the file's first exception.
		c.Exceptions = nil
	}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	return c, nil
}

// source is what is known of the file's text while it is checked.
type source struct {
	lines    map[string]int // of each field and list element, by its path
	mistakes []*Error
}

func newSource() *source { return &source{lines: map[string]int{}} }

// given reports whether the file has a value at path.
func (s *source) given(path string) bool {
	_, ok := s.lines[path]
	return ok
}

// mistake notes an error at a line.
func (s *source) mistake(line int, format string, args ...any) {
	s.mistakes = append(s.mistakes, &Error{Line: line, Problem: fmt.Sprintf(format, args...)})
}

// mistakeAt notes an error in the value at path.
func (s *source) mistakeAt(path, format string, args ...any) {
	s.mistake(s.lines[path], path+": "+format, args...)
}

// err returns all mistakes noted so far, in the order of their lines.
func (s *source) err() error {
	slices.SortStableFunc(s.mistakes, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	errs := make([]error, len(s.mistakes))
	for i, m := range s.mistakes {
		errs[i] = m
	}
	return errors.Join(errs...)
}
