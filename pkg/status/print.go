package status

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"sigs.k8s.io/yaml"
)

// Formats are the values that Print takes.
var Formats = []string{"table", "wide", "json", "yaml"}

// Print writes the report in one of Formats.
func Print(w io.Writer, r Report, format string) error {
	switch format {
	case "table":
		return printTables(w, r, false)
	case "wide":
		return printTables(w, r, true)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "yaml":
		out, err := yaml.Marshal(r)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		_, err = w.Write(out)
		return err
	default:
		return fmt.Errorf("status: unknown format %q: use one of %s", format, strings.Join(Formats, ", "))
	}
}

func printTables(w io.Writer, r Report, wide bool) error {
	var b strings.Builder
	ready := "ready"
	if !r.Ready {
		ready = "not ready"
	}
	fmt.Fprintf(&b, "sidestep-agent %s on %s: %s, up since %s, mode %s, delivery %s, guard %s\n",
		Cell(r.Version), Cell(r.Node), ready, when(r.Since), Cell(r.Mode), Cell(r.Delivery), guardCell(r))
	if !r.StaleSince.IsZero() {
		fmt.Fprintf(&b, "stale: pods and service accounts are as they were at %s, the API server has not answered yet\n", when(r.StaleSince))
	}
	if r.BootGuard != "" {
		fmt.Fprintf(&b, "boot guard: %s\n", Cell(r.BootGuard))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "problem: %s\n", Cell(p))
	}
	b.WriteString("\n")
	table(&b, podRows(r.Pods, wide))
	b.WriteString("\n")
	table(&b, serviceAccountRows(r.ServiceAccounts, wide))
	printFixes(&b, r.ServiceAccounts)
	if wide {
		b.WriteString("\n")
		table(&b, counterRows(r.Counters))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// guardCell names the guard, with the state of its second line if it has one.
func guardCell(r Report) string {
	if r.SecondLine == "" {
		return Cell(r.Guard)
	}
	return Cell(r.Guard) + " (second line " + Cell(r.SecondLine) + ")"
}

func podRows(pods []Pod, wide bool) [][]string {
	head := []string{"NAMESPACE", "POD", "SERVICE ACCOUNT", "VERDICT", "ACCESS", "REASON", "CLIENT ID"}
	if wide {
		head = append(head, "LISTENER", "CGROUP ID", "UID")
	}
	rows := [][]string{head}
	for _, p := range pods {
		row := []string{p.Namespace, p.Name, p.ServiceAccount, p.Verdict, p.Access, p.Reason, p.ClientID}
		if wide {
			row = append(row, number(uint64(p.Listener)), number(p.CgroupID), p.UID)
		}
		rows = append(rows, row)
	}
	return rows
}

func serviceAccountRows(accounts []ServiceAccount, wide bool) [][]string {
	head := []string{"NAMESPACE", "SERVICE ACCOUNT", "CLIENT ID", "LAST EXCHANGE", "EXPIRES", "LAST ERROR"}
	if wide {
		head = append(head, "TENANT ID")
	}
	rows := [][]string{head}
	for _, a := range accounts {
		row := []string{a.Namespace, a.Name, a.ClientID, when(a.LastExchange), when(a.ExpiresOn), a.LastError}
		if wide {
			row = append(row, a.TenantID)
		}
		rows = append(rows, row)
	}
	return rows
}

// printFixes writes the commands below the table, whole, to be copied.
func printFixes(b *strings.Builder, accounts []ServiceAccount) {
	for _, a := range accounts {
		if a.Fix != "" {
			fmt.Fprintf(b, "\nto fix %s/%s:\n  %s\n", Cell(a.Namespace), Cell(a.Name), Cell(a.Fix))
		}
	}
}

func counterRows(counters map[string]uint64) [][]string {
	rows := [][]string{{"CONNECTS", "COUNT"}}
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		rows = append(rows, []string{name, strconv.FormatUint(counters[name], 10)})
	}
	return rows
}

// table writes rows as columns; the first row is the head.
func table(b *strings.Builder, rows [][]string) {
	tw := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, c := range row {
			row[i] = Cell(c)
		}
		// Without a tab at the end there are no spaces at the end either.
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // a strings.Builder takes every write
}

// Cell makes s fit one field of one line: some of what is shown came from
// other programs, and goes to a terminal.
func Cell(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
