package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/config/configmap"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func newConfig(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at configurations",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newConfigCheck(env))
	return cmd
}

func newConfigCheck(env environment) *cobra.Command {
	var variables bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell whether agents would take a configuration file, or this environment",
		Long: "Read a configuration file as an agent does and print each mistake with its line\n" +
			"and what to do; the exit status is 1 if there is one. With --env the SIDESTEP_\n" +
			"variables of the environment are checked: those that no flag has, and values\n" +
			"that their flag does not take.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !variables {
				return errors.New("give a configuration FILE, or --env")
			}
			var mistakes []string
			if len(args) == 1 {
				mistakes = fileMistakes(args[0])
			}
			if variables {
				mistakes = append(mistakes, environmentMistakes(cmd.Root(), env)...)
			}
			for _, m := range mistakes {
				fmt.Fprintln(env.stdout, m)
			}
			if len(mistakes) > 0 {
				return errSilent
			}
			fmt.Fprintln(env.stdout, "no mistakes")
			return nil
		},
	}
	cmd.Flags().BoolVar(&variables, "env", false, "check the SIDESTEP_ variables of the environment")
	return cmd
}

// fileMistakes returns what is wrong with a configuration file, a line each.
func fileMistakes(path string) []string {
	if _, err := config.Load(path); err != nil {
		return strings.Split(err.Error(), "\n")
	}
	return nil
}

// environmentMistakes returns what is wrong with the variables, a line each.
func environmentMistakes(root *cobra.Command, env environment) []string {
	all := variableProblems(unknownVariables(root, env.variables()))
	var o runOptions
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	o.add(flags)
	if err := fromEnvironment(flags, env.getenv); err != nil {
		all = append(all, strings.Split(err.Error(), "\n")...)
	}
	return all
}

// configMapName is a flag of a ConfigMap's namespace and name; empty for none.
type configMapName struct{ namespace, name string }

func (n *configMapName) Type() string { return "namespace/name" }
func (n *configMapName) String() string {
	if n.name == "" {
		return ""
	}
	return n.namespace + "/" + n.name
}

func (n *configMapName) Set(s string) error {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return errors.New("must be a namespace and a name, as in sidestep-system/sidestep-agent-config")
	}
	n.namespace, n.name = namespace, name
	return nil
}

// source returns the ConfigMap that the file is mounted from, nil if none is
// named.
func (n *configMapName) source(client kubernetes.Interface, file string) config.Source {
	if n.name == "" {
		return nil
	}
	return configmap.ConfigMap{Client: client, Namespace: n.namespace, Name: n.name, Key: filepath.Base(file)}
}

// errNoConfiguration is what is missing while no configuration is valid.
var errNoConfiguration = errors.New("there is no valid configuration: every pod is held until there is one")

// configuration returns what is applied of the configuration.
func (a *agent) configuration() status.Configuration {
	s := a.watcher.State()
	c := status.Configuration{Origin: string(s.Origin)}
	if s.Refused != nil {
		c.Refused = s.Refused.Error()
	}
	return c
}

// configurationProblems returns what is wrong with the configuration, a line
// each.
func (a *agent) configurationProblems() (all []string) {
	s := a.watcher.State()
	if s.Refused != nil {
		applied := "the last good one stays applied"
		if s.Origin == config.OriginNone {
			applied = "every pod is held"
		}
		all = append(all, fmt.Sprintf("the configuration is refused, %s: %v", applied, s.Refused))
	}
	if s.NotKept != nil {
		all = append(all, fmt.Sprintf("an agent that starts with a bad configuration would hold every pod: %v", s.NotKept))
	}
	if s.Unwatched != nil {
		all = append(all, fmt.Sprintf("a change of the configuration is applied late, once the kubelet has brought the file: %v", s.Unwatched))
	}
	return all
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
