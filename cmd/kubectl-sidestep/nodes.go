package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func printNodes(out io.Writer, nodes []nodeStatus, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(nodes)
	case "yaml":
		text, err := yaml.Marshal(nodes)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	case "table", "wide":
		return printNodeTable(out, nodes, format == "wide")
	}
	return fmt.Errorf("%w, not %q", errFormat, format)
}

// printNodeTable writes one line per node, its problems below the table, and
// with wide every node's own tables below that.
func printNodeTable(out io.Writer, nodes []nodeStatus, wide bool) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tAGENT\tVERSION\tREADY\tMODE\tDELIVERY\tGUARD\tSTEERED\tPASS\tDENY\tFAILING")
	for _, n := range nodes {
		fmt.Fprintln(tw, strings.Join(nodeRow(n), "\t"))
	}
	_ = tw.Flush() // a strings.Builder takes every write
	for _, n := range nodes {
		for _, problem := range problems(n) {
			fmt.Fprintf(&b, "\n%s: %s", status.Cell(n.Node), status.Cell(problem))
		}
	}
	if _, err := io.WriteString(out, strings.TrimRight(b.String(), "\n")+"\n"); err != nil || !wide {
		return err
	}
	for _, n := range nodes {
		if n.Report == nil {
			continue
		}
		fmt.Fprintln(out)
		if err := status.Print(out, *n.Report, "wide"); err != nil {
			return err
		}
	}
	return nil
}

func nodeRow(n nodeStatus) []string {
	row := []string{n.Node, n.Agent}
	if r := n.Report; r != nil {
		verdicts := map[string]int{}
		for _, p := range r.Pods {
			verdicts[p.Verdict]++
		}
		row = append(row, r.Version, strconv.FormatBool(r.Ready), r.Mode, r.Delivery, r.Guard,
			strconv.Itoa(verdicts[workload.Steer.String()]), strconv.Itoa(verdicts[workload.Pass.String()]),
			strconv.Itoa(verdicts[workload.Deny.String()]),
			strconv.Itoa(failing(r)))
	} else {
		row = append(row, "", "no answer")
	}
	for i := range row {
		row[i] = status.Cell(row[i])
	}
	return row
}

// failing counts the service accounts whose last exchange failed.
func failing(r *status.Report) int {
	n := 0
	for _, a := range r.ServiceAccounts {
		if a.LastError != "" {
			n++
		}
	}
	return n
}

func problems(n nodeStatus) []string {
	if n.Report == nil {
		return []string{n.Error}
	}
	return n.Report.Problems
}
