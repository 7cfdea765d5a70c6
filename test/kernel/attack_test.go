package kernel

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// The attack suite. test/attack runs it, once as it is and once for each
// defence with that one taken out of the sources, and prints the table.
var (
	attackResults = flag.String("attack.results", "", "file to append the outcomes of attacks to, a JSON object a line")
	attackWithout = flag.String("attack.without", "", "the defence that this build lacks: attacks on it must succeed")
)

// attack is one way to a wrong identity, to the node's identity, or to keep
// others from theirs.
type attack struct {
	name string
	// with is the capabilities of the attacker's processes; zero: those that
	// a container has by default.
	with capabilities
	// expected is what is seen, by guard. Guards that are not named do not
	// matter to the attack, which is then run with the full one.
	expected map[guardMode]string
	// defence is what stands in the way (test/attack has its text), and
	// success is what is seen without it. Where the guard itself is the
	// defence, both are empty: off is without it.
	defence, success string
	// without is the guard when the defence is removed: a defence may stand
	// before another.
	without guardMode
	run     func(t *testing.T, guard guardMode) (seen string)
}

// always is for attacks that end alike with every guard.
func always(seen string) map[guardMode]string { return map[guardMode]string{guardFull: seen} }

// The outcomes of attacks.
const (
	ownIdentity   = "own identity"
	otherIdentity = "ANOTHER POD'S IDENTITY"
	nodeIdentity  = "THE NODE'S IDENTITY"
	impostor      = "AN IMPOSTOR'S ANSWER"
	held          = "held, then refused"
	eperm         = "refused (EPERM)"
	dropped       = "dropped"
)

// capabilities are a set of them and its name in the table.
type capabilities struct {
	name string
	set  []string
}

func (c capabilities) orDefault() capabilities {
	if c.set == nil {
		return capabilities{"default", lab.DefaultCapabilities()}
	}
	return c
}

// defaultAnd returns the default capabilities and some more.
func defaultAnd(more ...string) capabilities {
	return capabilities{"default+" + strings.Join(more, "+"), append(lab.DefaultCapabilities(), more...)}
}

// attackers is the set of every pod's processes while an attack runs: one runs
// at a time. nil: the lab's root has them all.
var attackers []string

// attackNote is what an attack has to say beside what is seen, for the table.
var attackNote string

// outcome is one line of the results.
type outcome struct {
	Attack, Capabilities, Guard, Expected, Seen string
	Defence, Note                               string `json:",omitempty"`
}

func attacks() []attack {
	var all []attack
	for _, some := range [][]attack{
		connectAttacks(), listenerAttacks(), tupleAttacks(), packetAttacks(), linkAttacks(), frameAttacks(), lifeAttacks(), loadAttacks(),
		agentAttacks(), gateAttacks(), quotaAttacks(), deliveryAttacks(), lineAttacks(),
	} {
		all = append(all, some...)
	}
	return all
}

func TestAttacks(t *testing.T) {
	for _, a := range attacks() {
		if *attackWithout != "" {
			if a.defence == *attackWithout {
				tryAttack(t, a, a.without, a.success)
			}
			continue
		}
		for _, guard := range []guardMode{guardFull, guardSocket, guardOff} {
			if expected, ok := a.expected[guard]; ok {
				tryAttack(t, a, guard, expected)
			}
		}
	}
}

func tryAttack(t *testing.T, a attack, guard guardMode, expected string) {
	t.Run(a.name+"/"+guard.String(), func(t *testing.T) {
		with := a.with.orDefault()
		attackers = with.set
		defer func() { attackers, attackNote = nil, "" }()
		seen := a.run(t, guard)
		if seen != expected {
			t.Errorf("seen: %s; expected: %s", seen, expected)
		}
		record(t, outcome{a.name, with.name, guard.String(), expected, seen, a.defence, attackNote})
	})
}

func record(t *testing.T, o outcome) {
	t.Helper()
	if *attackResults == "" {
		return
	}
	f, err := os.OpenFile(*attackResults, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(t, err)
	defer f.Close()
	check(t, json.NewEncoder(f).Encode(o))
}

// seenBy says what a dialing process of the pod got.
func seenBy(p *lab.Pod, got dialed) string {
	switch {
	case got.Errno == unix.EPERM:
		return eperm
	case got.Errno == unix.ETIMEDOUT:
		return dropped
	case got.Errno != 0:
		return "refused (" + unix.ErrnoName(got.Errno) + ")"
	case got.Answer.UID == "imds":
		return nodeIdentity
	case got.Answer.UID == "impostor":
		return impostor
	case got.Answer.UID == p.UID:
		return ownIdentity
	case got.Answer.UID != "":
		return otherIdentity
	}
	return held
}

// worst returns the outcome that is not the wanted one, if there is any.
func worst(wanted string, all ...string) string {
	for _, seen := range all {
		if seen != wanted {
			return seen
		}
	}
	return wanted
}

func (g guardMode) String() string { return [...]string{"full", "socket", "off"}[g] }

func errno(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	panic(fmt.Sprintf("not an errno: %v", err))
}
