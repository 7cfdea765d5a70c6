// Package changes has what test/handover changes in the agent's sources for the
// programs that it builds.
package changes

import "github.com/sidestep-agent/sidestep/test/overlay"

const (
	versionsGo = "pkg/handover/message.go"
	holderGo   = "pkg/handover/holder.go"
	takeGo     = "pkg/handover/take.go"
)

// Raised is a program whose hand-over has one version more.
var Raised = []overlay.Edit{{
	File: versionsGo, Old: "var spoken = versions{Lowest: 1, Highest: 1}", New: "var spoken = versions{Lowest: 1, Highest: 2}",
}}

// MomentFile names a moment of a hand-over, and what happens to the process that
// comes to it first.
const MomentFile = "/run/moment"

// The moments, besides each kind of message that a successor gets.
const (
	Asked = "asked" // the successor has asked
	Heard = "heard" // the holder has heard that the successor has everything
)

// Momentary is a program of another version that ends or stops at the moment
// that the file names.
var Momentary = append([]overlay.Edit{
	{File: versionsGo, Old: "func step() time.Duration {", New: `func moment(name string) {
	text, _ := os.ReadFile("` + MomentFile + `")
	switch string(text) {
	case name + " stop":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
	case name + " kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func step() time.Duration {`},
	{File: holderGo, Old: "// The one point at which the lock passes:", New: "moment(\"" + Heard + "\")\n\t// The one point at which the lock passes:"},
	{File: takeGo, Old: "h := received{", New: "moment(\"" + Asked + "\")\n\th := received{"},
	{File: takeGo, Old: "done, err := h.add(m, file)", New: "moment(string(m.Kind))\n\t\tdone, err := h.add(m, file)"},
}, Raised...)
