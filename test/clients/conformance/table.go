package main

import (
	"fmt"
	"io"
	"time"
)

const columns = "%-38s %-30s %-18s %6s  %s\n"

// table prints a row as soon as it is known.
type table struct {
	out           io.Writer
	cases, failed int
}

func newTable(out io.Writer) *table {
	fmt.Fprintf(out, columns, "CLIENT", "CASE", "REQUESTS", "MS", "RESULT")
	return &table{out: out}
}

// row prints a case. why is what is wrong with it; empty: nothing.
func (t *table) row(client, what string, requests budget, took time.Duration, why string) {
	t.cases++
	verdict := "OK"
	if why != "" {
		t.failed++
		verdict = "FAIL: " + why
	}
	fmt.Fprintf(t.out, columns, client, what, requests, fmt.Sprint(took.Milliseconds()), verdict)
}

// again prints a case that is tried once more. It counts as nothing.
func (t *table) again(client, what string, requests budget, took time.Duration) {
	fmt.Fprintf(t.out, columns, client, what, requests, fmt.Sprint(took.Milliseconds()),
		"again: the client did not wait for a probe's answer, which was there at once")
}

const leftOut = `
Left out, because it cannot run here:
  Azure.Identity and MSAL.NET, azure-identity for Java, azure-identity for C++: no registry of
  theirs is reached by this project. Their requests are replayed byte for byte in pkg/broker
  (TestClientsRequests), as are those of clients above.
  object_id, resource id or the default chain of clients in the table that lack the option.
`

// end prints the sum. It returns errFailed if a case failed or none ran.
func (t *table) end(partly bool) error {
	fmt.Fprint(t.out, leftOut)
	if partly {
		fmt.Fprintln(t.out, "  and the clients that -only did not match.")
	}
	fmt.Fprintf(t.out, "\nclients: %d cases OK, %d failed\n", t.cases-t.failed, t.failed)
	if t.failed > 0 || t.cases == 0 {
		return errFailed
	}
	return nil
}
