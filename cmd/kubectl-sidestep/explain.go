package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// explanation is what `explain` prints as JSON and YAML.
type explanation struct {
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	Node           string `json:"node,omitempty"`
	ServiceAccount string `json:"serviceAccount"`
	Links          []link `json:"links"`
}

func newExplain(t *target, out io.Writer) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "explain POD",
		Short: "Follow a pod from its label to its token: each link ok, or with its fix",
		Long: "Follow a pod from its label to its token: each link ok, or with its fix.\n\n" +
			"The exit status is 1 if a link is broken. What is said of the exchange is how the pod's own\n" +
			"last request for a token was answered: have the application ask first.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, namespace, err := t.open()
			if err != nil {
				return err
			}
			return explain(cmd.Context(), c, out, namespace, args[0], format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table, json or yaml")
	return cmd
}

// explain returns errBroken, once everything is printed, if a link is broken.
func explain(ctx context.Context, c *cluster, out io.Writer, namespace, name, format string) error {
	f, err := c.gather(ctx, namespace, name)
	if err != nil {
		return err
	}
	e := explanation{
		Namespace: namespace, Pod: name, Node: f.pod.Spec.NodeName,
		ServiceAccount: f.pod.Spec.ServiceAccountName, Links: chain(f),
	}
	if err := e.print(out, format); err != nil {
		return err
	}
	if !isWhole(e.Links) {
		return errBroken
	}
	return nil
}

func (e explanation) print(out io.Writer, format string) error {
	switch format {
	case "table":
		return e.printTable(out)
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(e)
	case "yaml":
		text, err := yaml.Marshal(e)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	return fmt.Errorf("--output is %q: use table, json or yaml", format)
}

func (e explanation) printTable(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s/%s on node %s, service account %s\n\n",
		status.Cell(e.Namespace), status.Cell(e.Pod), status.Cell(e.Node), status.Cell(e.ServiceAccount))
	tw := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, l := range e.Links {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", l.State, l.Name, status.Cell(l.Detail))
	}
	_ = tw.Flush() // a strings.Builder takes every write
	for _, l := range e.Links {
		if l.Fix != "" {
			fmt.Fprintf(&b, "\nto fix the %s:\n  %s\n", l.Name, status.Cell(l.Fix))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
