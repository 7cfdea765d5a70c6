package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/taint"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errAgentRuns is what uninstall says while there is still somebody who would
// serve pods with what it removes.
var errAgentRuns = errors.New("an agent runs on this node: end it first (kubectl -n sidestep-system delete daemonset sidestep-agent), or say --force")

// uninstallOptions are the flags of `agent uninstall`.
type uninstallOptions struct {
	bpffs, stateDir      string
	listen               netip.AddrPort
	nodeName, kubeconfig string
	removeTaint          bool
	boot                 bootguard.Files
	bootAlone            bool
	check, force, stay   bool
}

func newUninstall(env environment) *cobra.Command {
	var o uninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove from this node what the agent leaves there when it ends",
		Long: "Remove what an agent leaves on the node on purpose, so that steered pods stay\n" +
			"refused while none runs: the boot guard, programs, maps, the node listener's\n" +
			"address, what is in the state directory. From then on every pod reaches the\n" +
			"node's metadata service.\n" +
			"Says what it removes, a line each; where nothing is left, it does nothing.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			return uninstall(cmd.Context(), env, o)
		},
	}
	o.add(cmd.Flags())
	cmd.MarkFlagsMutuallyExclusive("check", "stay")
	return cmd
}

func (o *uninstallOptions) add(flags *pflag.FlagSet) {
	addBPFFS(flags, &o.bpffs)
	addStateDir(flags, &o.stateDir)
	addListen(flags, &o.listen)
	addNodeName(flags, &o.nodeName, "for --remove-taint")
	addKubeconfig(flags, &o.kubeconfig)
	addRemoveTaint(flags, &o.removeTaint)
	addBootConfig(flags, &o.boot.Config, bootguard.DefaultConfig)
	addBootFiles(flags, &o.boot)
	flags.BoolVar(&o.bootAlone, "boot-guard-only", false, "remove the boot guard alone, also while an agent runs")
	flags.BoolVar(&o.check, "check", false, "remove nothing; fail if there is something to remove")
	flags.BoolVar(&o.force, "force", false, "also while an agent runs, which puts back what it needs")
	flags.BoolVar(&o.stay, "stay", false, "when all is removed, wait to be asked to stop (for a DaemonSet)")
}

func uninstall(ctx context.Context, env environment, o uninstallOptions) error {
	if !o.check && !o.force && !o.bootAlone {
		if err := noAgentRuns(ctx, o); err != nil {
			return err
		}
	}
	all, err := leftovers(ctx, o)
	if errors.Is(err, bootguard.ErrOutOfReach) {
		return err // before anything is removed that the next boot would bring back
	}
	if o.check {
		for _, l := range all {
			fmt.Fprintln(env.stdout, "found", l.What)
		}
		if err == nil && len(all) > 0 {
			return errSilent
		}
		return err
	}
	if err := errors.Join(err, removeAll(env, all)); err != nil {
		return err
	}
	what := "agent"
	if o.bootAlone {
		what = "boot guard"
	}
	fmt.Fprintf(env.stdout, "nothing of the %s is left on this node\n", what)
	if o.stay {
		<-ctx.Done()
	}
	return nil
}

// noAgentRuns looks for two signs of an agent, since either can be missed: its
// socket may be in a directory that is not mounted here, and its node listener
// elsewhere than at --listen.
func noAgentRuns(ctx context.Context, o uninstallOptions) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if answers, err := status.Answers(ctx, o.stateDir); answers || err != nil {
		return errors.Join(whenRunning(answers), err)
	}
	listens, err := delivery.NodeListening(o.listen)
	return errors.Join(whenRunning(listens), err)
}

func whenRunning(runs bool) error {
	if runs {
		return errAgentRuns
	}
	return nil
}

// leftovers returns what there is to remove, in the order in which to do so.
// One source that cannot be read does not keep the others from being removed.
// The taint comes last: pods shall come back to a node that is clean.
func leftovers(ctx context.Context, o uninstallOptions) ([]workload.Leftover, error) {
	var all []workload.Leftover
	var errs []error
	add := func(found []workload.Leftover, err error) {
		all, errs = append(all, found...), append(errs, err)
	}
	o.boot.StateDir = o.stateDir
	add(o.boot.Leftovers())
	if o.bootAlone {
		return all, errors.Join(errs...)
	}
	add(routeguard.Leftovers()) // before the programs whose stamps it asks for
	add(intercept.Leftovers(o.bpffs))
	add(delivery.Leftovers(o.listen.Addr()))
	add(status.Leftovers(o.stateDir))
	add(handover.Leftovers(o.stateDir))
	add(snapshot.Leftovers(o.stateDir))
	add(configLeftovers(o.stateDir))
	if o.removeTaint {
		client, _, err := daemon.NewClients(o.kubeconfig, version)
		if err != nil {
			return all, errors.Join(append(errs, err)...)
		}
		add(taintLeftovers(ctx, client, o.nodeName))
	}
	return all, errors.Join(errs...)
}

// configLeftovers returns what is kept of the configuration.
func configLeftovers(stateDir string) (all []workload.Leftover, err error) {
	files, err := config.Leftovers(stateDir)
	for _, path := range files {
		all = append(all, workload.Leftover{What: "file " + path, Remove: func() error {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}})
	}
	return all, err
}

// taintLeftovers returns the taint, if the node bears it. Without an agent
// nothing else would remove it, and no pod would come to the node again.
func taintLeftovers(ctx context.Context, client kubernetes.Interface, node string) ([]workload.Leftover, error) {
	if node == "" {
		return nil, errors.New("--remove-taint needs --node-name")
	}
	r := taint.Remover{Nodes: client.CoreV1().Nodes(), Node: node}
	present, err := r.Present(ctx)
	if err != nil || !present {
		return nil, err
	}
	return []workload.Leftover{{
		What:   "taint " + taint.Key + " of node " + node,
		Remove: func() error { return r.Remove(ctx) },
	}}, nil
}

func removeAll(env environment, all []workload.Leftover) error {
	var errs []error
	for _, l := range all {
		if err := l.Remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", l.What, err))
			continue
		}
		fmt.Fprintln(env.stdout, "removed", l.What)
	}
	return errors.Join(errs...)
}
