package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// variables returns the environment as name=value.
func (e environment) variables() []string {
	if e.environ == nil {
		return nil
	}
	return e.environ()
}

// unknownVariables returns the names, sorted, of those SIDESTEP_ variables that
// no flag of any command has. They are no error: a Service whose name begins
// with sidestep makes such variables in the pods of its namespace.
func unknownVariables(root *cobra.Command, environ []string) []string {
	var known []string
	eachFlag(root, func(f *pflag.Flag) { known = append(known, environmentName(f.Name)) })
	var unknown []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, environmentName("")) && !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

func eachFlag(cmd *cobra.Command, f func(*pflag.Flag)) {
	cmd.Flags().VisitAll(f)
	for _, sub := range cmd.Commands() {
		eachFlag(sub, f)
	}
}

// mistyped is in how many letters a variable may differ from the one that was
// meant: SIDESTEP_TENANT is SIDESTEP_TENANT_ID.
const mistyped = 4

// variableProblems says of each unknown variable which flag it may mean.
func variableProblems(unknown []string) []string {
	var known []string
	runFlags(new(runOptions)).VisitAll(func(f *pflag.Flag) { known = append(known, environmentName(f.Name)) })
	var all []string
	for _, name := range unknown {
		meant := "remove it; docs/configuration.md lists those that there are"
		if nearest := config.Nearest(name, known, mistyped); nearest != "" {
			flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(nearest, environmentName("")), "_", "-"))
			meant = fmt.Sprintf("did you mean %s (--%s)?", nearest, flag)
		}
		all = append(all, fmt.Sprintf("no flag has the environment variable %s, it is ignored: %s", name, meant))
	}
	return all
}
