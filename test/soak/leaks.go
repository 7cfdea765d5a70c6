package main

import "github.com/sidestep-agent/sidestep/test/overlay"

// leak is one release in the agent's sources, how to remove it, and the
// figure by which that must be seen.
type leak struct {
	name   string
	figure string
	edits  []overlay.Edit
}

var leaks = []leak{
	{"the watch of an unused service account goes on", goroutines, []overlay.Edit{{
		File: "pkg/podcache/account.go",
		Old:  "\tif a.stop != nil {\n\t\ta.stop()\n\t}\n\tdelete(c.accounts, a.name)",
		New:  "\tdelete(c.accounts, a.name)",
	}}},
	{"a caller's cgroup stays open", descriptors, []overlay.Edit{{
		File: "pkg/cgroups/tree.go",
		Old:  "\tdefer func() { _ = unix.Close(fd) }()\n\tref, err := t.resolve(id, fd)",
		New:  "\tref, err := t.resolve(id, fd)",
	}}},
	{"the watch of a cgroup that ended goes on", watches, []overlay.Edit{{
		File: "pkg/cgroups/inotify.go",
		Old:  "\t_ = w.inotify.Remove(dir)\n",
		New:  "",
	}}},
	{"the listener of a pod that ended stays open", namespaces, []overlay.Edit{{
		File: "pkg/delivery/round.go",
		Old:  "\tl.Close()\n\tdelete(r.listeners, uid)",
		New:  "\tdelete(r.listeners, uid)",
	}}},
	{"the verdict of a pod that ended stays", entriesOf + "sidestep_verdicts", []overlay.Edit{{
		File: "pkg/delivery/reconciler.go",
		Old:  "if err := r.Kernel.DeleteVerdict(id); err != nil {",
		New:  "if err := error(nil); err != nil {",
	}}},
	{"the guard of a link that ended stays pinned", pins, []overlay.Edit{{
		File: "pkg/delivery/guard.go",
		Old:  "if err := g.Kernel.UnguardLink(ifindex); err != nil {",
		New:  "if err := error(nil); err != nil {",
	}}},
	{"the tokens of a service account that went stay", cachedTokens, []overlay.Edit{{
		File: "cmd/agent/daemon/upkeep.go",
		Old:  "\t\t\tu.tokens.Forget(uid)\n",
		New:  "\t\t\t_ = uid\n",
	}}},
	{"each answer is kept, with its request", residentMemory, []overlay.Edit{{
		File: "pkg/broker/fast.go",
		Old:  "\t_, err = f.Write(whole)\n",
		New:  "\t_, err = f.Write(whole)\n\tkept.Store(new(int), append(append([]byte(nil), text...), whole...))\n",
	}, {
		File: "pkg/broker/fast.go",
		Old:  "// parse reads what a query asks for;",
		New:  "var kept sync.Map\n\n// parse reads what a query asks for;",
	}}},
}
