package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// extrapolate returns what n agents would cost, by the line through the last
// two numbers that were measured. What does not grow by a line (peaks, times)
// stays empty.
func extrapolate(steps []step, n int) step {
	a, b := steps[len(steps)-2], steps[len(steps)-1]
	line := func(ya, yb float64) float64 {
		return yb + (yb-ya)*float64(n-b.Agents)/float64(b.Agents-a.Agents)
	}
	return step{ // at rest no requests but renewals
		Agents: n, Extrapolated: true, Pods: n * podsPerNode,
		PodWatches: int(line(float64(a.PodWatches), float64(b.PodWatches))),
		Watches:    int(line(float64(a.Watches), float64(b.Watches))),
		ResidentMB: line(a.ResidentMB, b.ResidentMB), RestCPU: line(a.RestCPU, b.RestCPU),
		Renewals: line(a.Renewals, b.Renewals),
		AgentKB:  b.AgentKB,
	}
}

func printTable(out io.Writer, steps []step) error {
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "agents\tpods\twatches\tof pods\tapiserver MB\tCPU at rest\trequests/s\trenewals/s\tagent KB\tpeak/s, start\tlists\twatches\trefused\tpeak/s\tback after s\tforeign\t")
	for _, s := range steps {
		fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t%.0f\t%.3f\t%.2f\t%.2f\t%.0f\t", s.Agents, s.Pods, s.Watches, s.PodWatches,
			s.ResidentMB, s.RestCPU, s.RestRequests, s.Renewals, s.AgentKB)
		if s.Extrapolated {
			fmt.Fprintln(tw, "extrapolated\t\t\t\t\t\t\t")
			continue
		}
		fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t%d\t%.1f\t%d\t\n", s.StartPeak, s.Restart.Lists, s.Restart.Watches, s.Restart.Refused, s.Restart.Peak, s.BackAfter, s.Foreign)
	}
	return tw.Flush()
}

func printJSON(out io.Writer, steps []step) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(steps)
}
