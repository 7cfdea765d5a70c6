package threads

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strconv"
)

// finding is a use that breaks a rule.
type finding struct {
	Function string // the function or method around it
	Use      string
	token.Position
}

func (f finding) String() string {
	return fmt.Sprintf("%s: %s in %s", f.Position, f.Use, f.Function)
}

const (
	unixPath = "golang.org/x/sys/unix"
	labPath  = "github.com/sidestep-agent/sidestep/test/lab"
)

// ofThread are names whose use concerns the calling thread alone. setuid and
// its kin are not among them: Go makes those calls on all threads.
var ofThread = map[string][]string{
	unixPath: {
		"Unshare", "Setns", "Prctl", "Capset", "Setfsuid", "Setfsgid", "SchedSetaffinity",
		"SYS_UNSHARE", "SYS_SETNS", "SYS_PRCTL", "SYS_CAPSET", "SYS_SETFSUID", "SYS_SETFSGID",
	},
	"syscall": {
		"Unshare", "Setfsuid", "Setfsgid",
		"SYS_UNSHARE", "SYS_SETNS", "SYS_PRCTL", "SYS_CAPSET", "SYS_SETFSUID", "SYS_SETFSGID",
	},
	"github.com/vishvananda/netns": {"Set", "Setns", "New", "NewNamed"},
}

// pdeathsig is a field of syscall.SysProcAttr: the signal comes when the thread
// that started the process ends.
const pdeathsig = "Pdeathsig"

// blocking are functions that make an open file blocking for a moment where it
// was made by a net.Conn's or net.Listener's method File.
var blocking = []string{"FileListener", "FileConn", "FilePacketConn"}

// directory is what is known of the files of one directory.
type directory struct {
	fset      *token.FileSet
	functions map[string][]*body // declared ones, by name
	mentions  map[string][]mention
	tasks     map[string]bool // by name: lab.Register'ed, whose thread is locked
	uses      []use
	sockets   []finding
}

// body is a function's, without those of the functions in it that may run
// elsewhere or later.
type body struct {
	name     string
	exported bool
	// locks are where it locks its goroutine to the thread; unlocks where it
	// ends that in its outermost block.
	locks, unlocks []token.Pos
}

// mention is a place where a function's name stands; called says that it is
// called there, by the goroutine that is in the body.
type mention struct {
	in     *body
	at     token.Pos
	called bool
}

type use struct {
	in   *body
	at   token.Pos
	what string
}

// parse reads Go files, by name and text.
func parse(files map[string]string) (*directory, error) {
	d := &directory{
		fset: token.NewFileSet(), functions: map[string][]*body{}, mentions: map[string][]mention{},
		tasks: map[string]bool{},
	}
	for name, text := range files {
		file, err := parser.ParseFile(d.fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		d.add(file)
	}
	return d, nil
}

// add takes in one file.
func (d *directory) add(file *ast.File) {
	r := reader{directory: d, imports: map[string]string{}, inLab: file.Name.Name == "lab"}
	for _, i := range file.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		local := path.Base(name)
		if i.Name != nil {
			local = i.Name.Name
		}
		r.imports[local] = name
	}
	for _, declared := range file.Decls {
		f, ok := declared.(*ast.FuncDecl)
		if !ok {
			r.read(declared, &body{name: "a variable"})
			continue
		}
		b := &body{name: f.Name.Name, exported: f.Name.IsExported() && file.Name.Name != "main"}
		d.functions[b.name] = append(d.functions[b.name], b)
		if f.Body != nil {
			r.outermost = f.Body.List
			r.read(f.Body, b)
		}
	}
}

// findings returns what breaks a rule.
func (d *directory) findings() []finding {
	all := d.sockets
	for _, u := range d.uses {
		if !d.locked(u.in, u.at, map[*body]bool{}) {
			all = append(all, finding{u.in.name, u.what, d.fset.Position(u.at)})
		}
	}
	return all
}

// locked reports whether the goroutine is locked to its thread at that place:
// by the function itself, or by all that call it.
func (d *directory) locked(b *body, at token.Pos, seen map[*body]bool) bool {
	last, unlocked := token.NoPos, token.NoPos
	for _, p := range b.locks {
		if p < at {
			last = max(last, p)
		}
	}
	for _, p := range b.unlocks {
		if p < at {
			unlocked = max(unlocked, p)
		}
	}
	if unlocked > last {
		return false
	}
	if last != token.NoPos {
		return true
	}
	if seen[b] || d.functions[b.name] == nil {
		return seen[b] // a recursive call is as locked as the first
	}
	seen[b] = true
	all := d.mentions[b.name]
	for _, m := range all {
		if !m.called || !d.locked(m.in, m.at, seen) {
			return false
		}
	}
	return d.tasks[b.name] || len(all) > 0 && !b.exported
}
