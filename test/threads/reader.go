package threads

import (
	"go/ast"
	"go/token"
	"slices"
)

// reader reads one file.
type reader struct {
	*directory
	imports   map[string]string // paths by the name that they have in the file
	inLab     bool
	outermost []ast.Stmt // of the function that is read
}

// read collects what is said in a node, which is in the body.
func (r *reader) read(node ast.Node, in *body) {
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			r.literal(n, in)
			return false
		case *ast.GoStmt:
			r.elsewhere(n.Call, in)
			return false
		case *ast.DeferStmt:
			return r.call(n.Call, in)
		case *ast.CallExpr:
			return r.call(n, in)
		case *ast.ExprStmt:
			if r.is(n.X, "runtime", "UnlockOSThread") && slices.Contains(r.outermost, ast.Stmt(n)) {
				in.unlocks = append(in.unlocks, n.Pos())
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == pdeathsig {
				r.uses = append(r.uses, use{in, n.Pos(), pdeathsig})
			}
		case *ast.SelectorExpr:
			r.selector(n, in)
			r.mention(n.Sel.Name, in, n, false)
			r.read(n.X, in)
			return false
		case *ast.Ident:
			r.mention(n.Name, in, n, false)
		}
		return true
	})
}

// literal reads a function that is written where it is used; who runs it, and
// when, is not known.
func (r *reader) literal(f *ast.FuncLit, in *body) {
	saved := r.outermost
	r.outermost = f.Body.List
	r.read(f.Body, &body{name: in.name + ", a function in it"})
	r.outermost = saved
}

// elsewhere reads a call that another goroutine makes.
func (r *reader) elsewhere(c *ast.CallExpr, in *body) {
	if f, ok := c.Fun.(*ast.FuncLit); ok {
		r.literal(f, in)
	} else {
		r.read(c.Fun, &body{name: in.name + ", in another goroutine"})
	}
	for _, a := range c.Args {
		r.read(a, in)
	}
}

// call reads a call that the goroutine itself makes, and reports whether what
// it is made of is still to be read.
func (r *reader) call(c *ast.CallExpr, in *body) bool {
	switch f := c.Fun.(type) {
	case *ast.FuncLit:
		r.read(f.Body, in) // here and now, or deferred to the end
	case *ast.Ident:
		if r.inLab && f.Name == "Register" {
			return !r.register(c)
		}
		r.mention(f.Name, in, c, true)
	case *ast.SelectorExpr:
		if r.is(f, "runtime", "LockOSThread") {
			in.locks = append(in.locks, c.Pos())
		}
		if r.is(f, labPath, "Register") {
			return !r.register(c)
		}
		if f.Sel.Name == "File" && len(c.Args) == 0 {
			r.sockets = append(r.sockets, finding{in.name, "File()", r.fset.Position(c.Pos())})
		}
		r.selector(f, in)
		r.mention(f.Sel.Name, in, c, true)
		r.read(f.X, in)
	default:
		return true
	}
	for _, a := range c.Args {
		r.read(a, in)
	}
	return false
}

// register takes in a task, and reports whether it was one with a name.
func (r *reader) register(c *ast.CallExpr) bool {
	task, ok := c.Args[len(c.Args)-1].(*ast.Ident)
	if ok {
		r.tasks[task.Name] = true
	}
	if f, literal := c.Args[len(c.Args)-1].(*ast.FuncLit); literal {
		locked := &body{name: "a task", locks: []token.Pos{f.Pos()}}
		r.read(f.Body, locked)
		return true
	}
	return ok
}

func (r *reader) selector(s *ast.SelectorExpr, in *body) {
	for path, names := range ofThread {
		if slices.ContainsFunc(names, func(name string) bool { return r.is(s, path, name) }) {
			r.uses = append(r.uses, use{in, s.Pos(), s.Sel.Name})
		}
	}
	if slices.ContainsFunc(blocking, func(name string) bool { return r.is(s, "net", name) }) {
		r.sockets = append(r.sockets, finding{in.name, "net." + s.Sel.Name, r.fset.Position(s.Pos())})
	}
}

// is reports whether the expression, or what it calls, is that name of the
// package.
func (r *reader) is(e ast.Expr, path, name string) bool {
	if c, ok := e.(*ast.CallExpr); ok {
		e = c.Fun
	}
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	of, ok := s.X.(*ast.Ident)
	return ok && r.imports[of.Name] == path
}

func (r *reader) mention(name string, in *body, at ast.Node, called bool) {
	r.mentions[name] = append(r.mentions[name], mention{in, at.Pos(), called})
}
