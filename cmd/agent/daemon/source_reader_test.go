package daemon

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sourceReader finds in source text what is written to the log, as events and
// in spans.
type sourceReader struct {
	keys       map[string]bool
	events     map[string]bool // their reasons
	attributes map[string]bool // of spans
	unclear    []string        // places of what it cannot read
	files      *token.FileSet
}

func newSourceReader() *sourceReader {
	return &sourceReader{
		keys: map[string]bool{}, events: map[string]bool{}, attributes: map[string]bool{}, files: token.NewFileSet(),
	}
}

// readAgent reads all of the agent's own packages.
func readAgent(t *testing.T) *sourceReader {
	t.Helper()
	r := newSourceReader()
	for _, root := range []string{"../../../pkg", ".."} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(r.files, path, nil, 0)
			if err == nil {
				ast.Inspect(file, r.visit)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *sourceReader) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		r.call(n)
	case *ast.FuncDecl:
		for _, name := range spread(n) {
			r.readSlice(n, name)
		}
	case *ast.Field:
		r.field(n)
	}
	return true
}

// Loggers are recognized by their names.
var loggerNames = []string{"log", "Log", "audit", "Audit"}

func isNamed(e ast.Expr, names []string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return slices.Contains(names, e.Name)
	case *ast.SelectorExpr:
		return slices.Contains(names, e.Sel.Name)
	case *ast.CallExpr: // log.With(…).Info(…)
		s, ok := e.Fun.(*ast.SelectorExpr)
		return ok && isNamed(s.X, names)
	}
	return false
}

// field makes sure that a field or parameter that is a logger is named as one.
func (r *sourceReader) field(f *ast.Field) {
	pointer, ok := f.Type.(*ast.StarExpr)
	if !ok {
		return
	}
	s, ok := pointer.X.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Logger" || !isNamed(s.X, []string{"slog"}) {
		return
	}
	for _, name := range f.Names {
		if !isNamed(name, loggerNames) {
			r.unclear = append(r.unclear, r.files.Position(name.Pos()).String())
		}
	}
}

// lineCalls are a logger's functions that take keys, with the place of the
// first.
var lineCalls = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0, "WithGroup": 0,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2,
	"Log": 3, "LogAttrs": 3,
}

// attributeCalls are slog's functions that make one attribute; its key comes
// first.
var attributeCalls = []string{"String", "Int", "Int64", "Uint64", "Float64", "Bool", "Time", "Duration", "Any", "Group", "GroupAttrs"}

// lineArguments returns what a call gives a line of the log beside its message;
// nil if it writes none.
func lineArguments(call *ast.CallExpr) []ast.Expr {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	first, line := lineCalls[s.Sel.Name]
	switch {
	case isAttribute(call):
		return call.Args[1:] // a group's are keys and values
	case line && len(call.Args) > first && isNamed(s.X, append([]string{"slog"}, loggerNames...)):
		return call.Args[first:]
	}
	return nil
}

func (r *sourceReader) call(call *ast.CallExpr) {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return
	}
	switch args := lineArguments(call); {
	case isAttribute(call):
		r.note(r.keys, call.Args[0])
		if s.Sel.Name == "Group" && !call.Ellipsis.IsValid() {
			r.pairs(args)
		}
	case call.Ellipsis.IsValid() && len(args) > 0:
		r.pairs(args[:len(args)-1])
	case args != nil:
		r.pairs(args)
	case s.Sel.Name == "Eventf":
		r.note(r.events, call.Args[3])
	case isNamed(s.X, []string{"attribute"}):
		r.note(r.attributes, call.Args[0])
	}
}

// spread returns the names of the slices that a function gives lines of the
// log as they are.
func spread(f *ast.FuncDecl) (names []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || !call.Ellipsis.IsValid() || len(lineArguments(call)) == 0 {
			return true
		}
		if slice, ok := call.Args[len(call.Args)-1].(*ast.Ident); ok {
			names = append(names, slice.Name)
		}
		return true
	})
	return names
}

// readSlice reads what the function puts in the slice of that name.
func (r *sourceReader) readSlice(f *ast.FuncDecl, name string) {
	ast.Inspect(f, func(n ast.Node) bool {
		assign, ok := n.(*ast.AssignStmt)
		if !ok || !isNamed(assign.Lhs[0], []string{name}) {
			return true
		}
		switch value := assign.Rhs[0].(type) {
		case *ast.CompositeLit:
			r.pairs(value.Elts)
		case *ast.CallExpr:
			if f, ok := value.Fun.(*ast.Ident); ok && f.Name == "append" {
				r.pairs(value.Args[1:])
			}
		}
		return true
	})
}

func isAttribute(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && isNamed(s.X, []string{"slog"}) && slices.Contains(attributeCalls, s.Sel.Name)
}

// pairs reads keys and values as they alternate. Attributes stand alone and
// are met by themselves.
func (r *sourceReader) pairs(args []ast.Expr) {
	for i := 0; i < len(args); i++ {
		if isAttribute(args[i]) {
			continue
		}
		r.note(r.keys, args[i])
		i++
	}
}

func (r *sourceReader) note(in map[string]bool, e ast.Expr) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		r.unclear = append(r.unclear, r.files.Position(e.Pos()).String())
		return
	}
	text, err := strconv.Unquote(literal.Value)
	if err != nil {
		panic(err) // the parser has read it
	}
	in[text] = true
}
