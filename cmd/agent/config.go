package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/config"
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
	if err := fromEnvironment(runFlags(new(runOptions)), env.getenv); err != nil {
		all = append(all, strings.Split(err.Error(), "\n")...)
	}
	return all
}
