// Package changes has what test/handover changes in the agent's sources for the
// programs that it builds.
package changes

import (
	"slices"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

const (
	versionsGo = "pkg/handover/message.go"
	holderGo   = "pkg/handover/holder.go"
	takeGo     = "pkg/handover/take.go"
)

// Raised is a program whose hand-over has one version more.
var Raised = []overlay.Edit{{
	File: versionsGo, Old: "var spoken = versions{Lowest: 1, Highest: 1}", New: "var spoken = versions{Lowest: 1, Highest: 2}",
}}

const (
	layoutGo  = "pkg/intercept/layout.go"
	linksGo   = "pkg/intercept/attach.go"
	otherGo   = "pkg/intercept/otherlayout.go"
	typesH    = "bpf/types.h"
	structure = "_           structs.HostLayout\n"
)

// Layout is a program whose maps have another layout than those of the tree: a
// field more in verdicts, flows and claims, and only in flows, whose beginning
// all layouts share, behind the others.
var Layout = []overlay.Edit{
	{File: layoutGo, Old: "const layout uint32 = 2", New: "const layout uint32 = 3"},
	{File: typesH, Old: "struct verdict_entry {\n", New: "struct verdict_entry {\n\t__u64 more;\n"},
	{File: typesH, Old: "/* a listener of the agent has the connection */\n", New: "/* a listener of the agent has the connection */\n\t__u64 more;\n"},
	{File: typesH, Old: "until end_flow() */\n", New: "until end_flow() */\n\t__u64 more;\n"},
	{File: kernelGo, Old: "type kernelVerdictEntry struct {\n\t" + structure, New: "type kernelVerdictEntry struct {\n\t" + structure + "\tMore uint64\n"},
	{File: kernelGo, Old: "\tAmbiguous    uint32\n\tAccepted     uint32\n", New: "\tAmbiguous    uint32\n\tAccepted     uint32\n\tMore uint64\n"},
}

// kernelGo is what is generated from the BPF programs for this machine.
var kernelGo = "pkg/intercept/kernel_" + overlay.Arch() + "_bpfel.go"

// LayoutSteps are further moments, of a change of layouts: when what follows connections is attached, when its layout is named the
// active one, and when the program of each hook that decides has been replaced.
var LayoutSteps = []string{"followers", "activated", "bind4", "bind6", "connect4", "connect6", "egress", "moved"}

// LayoutMoments is Momentary with another layout, too, and with the moments
// LayoutSteps.
var LayoutMoments = append([]overlay.Edit{
	{File: otherGo, Old: "// takeOver puts the program", New: momentFunction + "\n// takeOver puts the program"},
	{File: otherGo, Old: "\tif err := writeLayout(l.named); err != nil {", New: "\tmoment(\"followers\")\n\tif err := writeLayout(l.named); err != nil {"},
	{File: otherGo, Old: "\tl.active.Store(true)\n", New: "\tl.active.Store(true)\n\tmoment(\"activated\")\n"},
	{File: otherGo, Old: "\t\tif err := taken.Pin(p.pin); err != nil {", New: "\t\tif p.object == \"connect4\" {\n\t\t\tmoment(\"moved\")\n\t\t}\n\t\tif err := taken.Pin(p.pin); err != nil {"},
	{File: linksGo, Old: "\t\tif h.links[h.pin(hook)] == nil {", New: "\t\tmoment(hook.name)\n\t\tif h.links[h.pin(hook)] == nil {"},
	{File: otherGo, Old: "\t\"strings\"\n", New: "\t\"strings\"\n\t\"syscall\"\n"},
}, append(slices.Clone(Layout), Momentary...)...)

// MomentFile names a moment of a hand-over, and what happens to the process that
// comes to it first.
const MomentFile = "/run/moment"

// The moments, besides each kind of message that a successor gets.
const (
	Asked = "asked" // the successor has asked
	Heard = "heard" // the holder has heard that the successor has everything
	Given = "given" // the holder has said that all is the successor's
)

const momentFunction = `func moment(name string) {
	text, _ := os.ReadFile("` + MomentFile + `")
	switch string(text) {
	case name + " stop":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
	case name + " pause":
		for now := text; string(now) == string(text); now, _ = os.ReadFile("` + MomentFile + `") {
			time.Sleep(10 * time.Millisecond)
		}
	case name + " kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}
`

// Momentary is a program of another version that ends or stops at the moment
// that the file names.
var Momentary = append([]overlay.Edit{
	{File: versionsGo, Old: "func step() time.Duration {", New: momentFunction + "\nfunc step() time.Duration {"},
	{File: holderGo, Old: "// The one point at which the lock passes:", New: "moment(\"" + Heard + "\")\n\t// The one point at which the lock passes:"},
	{File: holderGo, Old: "return send(s.conn, message{Kind: yours}, nil)", New: "err := send(s.conn, message{Kind: yours}, nil)\n\tmoment(\"" + Given + "\")\n\treturn err"},
	{File: takeGo, Old: "h := received{", New: "moment(\"" + Asked + "\")\n\th := received{"},
	{File: takeGo, Old: "done, err := h.add(m, file)", New: "moment(string(m.Kind))\n\t\tdone, err := h.add(m, file)"},
}, Raised...)
