package main

import "github.com/sidestep-agent/sidestep/test/overlay"

// leak is one release in the agent's sources, how to take it away, and the
// figure by which that must be seen.
type leak struct {
	name   string
	figure string
	edits  []overlay.Edit
}

var leaks = []leak{
	{"the watch of an unused service account goes on", goroutines, []overlay.Edit{{
		File: "pkg/podcache/account.go",
		Old:  "\ta.stop()\n\tdelete(c.accounts, a.name)",
		New:  "\tdelete(c.accounts, a.name)",
	}}},
	{"a caller's cgroup stays open", descriptors, []overlay.Edit{{
		File: "pkg/cgroups/tree.go",
		Old:  "\tdefer func() { _ = unix.Close(fd) }()\n\tpath, err := fdPath(fd)",
		New:  "\tpath, err := fdPath(fd)",
	}}},
	{"the listener of a pod that ended stays open", namespaces, []overlay.Edit{{
		File: "pkg/delivery/pod.go",
		Old:  "\tl.Close()\n\tdelete(r.listeners, uid)",
		New:  "\tdelete(r.listeners, uid)",
	}}},
	{"the verdict of a pod that ended stays", entriesOf + "sidestep_verdicts", []overlay.Edit{{
		File: "pkg/delivery/reconciler.go",
		Old:  "if err := r.Kernel.DeleteVerdict(id); err != nil {",
		New:  "if err := error(nil); err != nil {",
	}}},
	{"the guard of a link that ended stays pinned", pins, []overlay.Edit{{
		File: "pkg/delivery/links.go",
		Old:  "if err := r.Kernel.UnguardLink(ifindex); err != nil {",
		New:  "if err := error(nil); err != nil {",
	}}},
	{"the tokens of a service account that went stay", cachedTokens, []overlay.Edit{{
		File: "cmd/agent/accounts.go",
		Old:  "\t\t\ta.tokens.Forget(uid)\n",
		New:  "\t\t\t_ = uid\n",
	}}},
	{"each answer is kept, with its request", residentMemory, []overlay.Edit{{
		File: "pkg/broker/serve.go",
		Old:  "\ta.write(w)\n",
		New:  "\ta.write(w)\n\tkept = append(kept, a.body, r)\n",
	}, {
		File: "pkg/broker/serve.go",
		Old:  "// serve is the HTTP handler of every connection.\n",
		New:  "var kept []any\n\n// serve is the HTTP handler of every connection.\n",
	}}},
}
