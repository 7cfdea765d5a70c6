package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/suite"
)

const (
	scripts        = ".."
	manifests      = "../../../manifests"
	federationFile = "../federation.yaml"
)

var (
	// withoutNode says why there is no node to test on; empty: there is one.
	withoutNode string
	// known is who may be whom, by the stand-ins' configuration.
	known federation.File
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if !suite.Asked() {
		withoutNode = suite.Skipped("test-node")
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return failed(errors.New("a node needs root"))
	}
	if testing.Short() {
		withoutNode = "a node is not brought up with -short"
		return m.Run()
	}
	if exec.Command("bash", "-c", ". "+scripts+"/env.sh && chrooted").Run() == nil {
		withoutNode = "a node does not work in a chroot"
		return m.Run()
	}
	directory, err := federation.Open(federationFile)
	if err == nil {
		known, err = directory.Current()
	}
	if err != nil {
		return failed(err)
	}
	brought, err := bringUp()
	if brought {
		defer func() { _ = script("down.sh") }()
	}
	if err == nil {
		err = furnish()
	}
	if err != nil {
		return failed(err)
	}
	if !brought {
		defer clearUp()
	}
	return m.Run()
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "node tests:", err)
	return 1
}

// bringUp makes sure that a node is up with the agent of this tree. It reports
// whether there was none before.
func bringUp() (bool, error) {
	if err := exec.Command(scripts+"/exec.sh", "true").Run(); err == nil {
		return false, script("install.sh")
	}
	return true, script("up.sh")
}

// scriptTime is enough to build the node's Kubernetes, once.
const scriptTime = 20 * time.Minute

// script runs one of the rig's scripts and shows what it says.
func script(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), scriptTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, scripts+"/"+name)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// needNode skips the test where there is no node.
func needNode(t *testing.T) {
	t.Helper()
	if withoutNode != "" {
		t.Skip("left out:", withoutNode)
	}
}
