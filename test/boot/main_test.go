package boot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

var program = flag.String("boot.agent", "", "path of the agent's program")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(lab.Suite("test-boot", m.Run))
}

func needProgram(t *testing.T) {
	t.Helper()
	if *program == "" {
		t.Fatal("needs the agent's program: run make test-boot")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guard is where a boot guard does its work.
type guard struct {
	node     *lab.Node
	stateDir string
	config   string // its configuration file
}

// command returns the command line that the unit would run, with further flags.
func (g guard) command(flags ...string) []string {
	return append([]string{
		*program, "boot-guard", "attach",
		"--cgroup-root", g.node.CgroupRoot, "--kubepods-cgroup", g.node.Kubepods, "--bpffs", g.node.BPFFS,
		"--state-dir", g.stateDir, "--boot-config", g.config,
	}, flags...)
}

// run runs a command to its end and returns what it said.
func run(command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%v: %w: %s", command, err, out)
	}
	return string(out), nil
}

// boots removes the pods' cgroup, which a kubelet has not made yet on a node
// that boots.
func boots(n *lab.Node) error {
	return errors.Join(os.Remove(n.Kubepods+"/burstable"), os.Remove(n.Kubepods))
}
