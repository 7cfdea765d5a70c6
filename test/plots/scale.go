package main

import (
	"fmt"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// step is what so many agents cost one API server, as test/scale measured it,
// or extrapolated it from fewer.
type step struct {
	Agents       int     `json:"agents"`
	Extrapolated bool    `json:"extrapolated"`
	Pods         int     `json:"pods"`
	Watches      int     `json:"watches"`
	ResidentMB   float64 `json:"residentMB"`
	RestCPU      float64 `json:"restCPU"`
	RestRequests float64 `json:"restRequests"`
	Renewals     float64 `json:"renewals"`
	AgentKB      float64 `json:"agentKB"`
	Restart      struct {
		Lists   int `json:"lists"`
		Watches int `json:"watches"`
		Refused int `json:"refused"`
		Peak    int `json:"peakPerSecond"` // requests in the busiest second
	} `json:"restart"`
	BackAfter float64 `json:"backAfter"`
	Foreign   int     `json:"foreign"`
}

// drawScale draws the API server's memory and what it is asked against the
// number of agents. What was extrapolated has hollow points.
func drawScale(path string, steps []step) error {
	memory := newPlot("the apiserver's memory", "agents", "MB")
	load := newPlot("watches renewed at rest", "agents", "a second")
	for _, side := range []struct {
		plot  *plot.Plot
		value func(step) float64
	}{
		{memory, func(s step) float64 { return s.ResidentMB }},
		{load, func(s step) float64 { return s.Renewals }},
	} {
		for _, axis := range []*plot.Axis{&side.plot.X, &side.plot.Y} {
			axis.Scale, axis.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		}
		if err := addSteps(side.plot, steps, side.value); err != nil {
			return err
		}
	}
	return save(path, memory, load)
}

func addSteps(p *plot.Plot, steps []step, value func(step) float64) error {
	var all plotter.XYs
	for _, s := range steps {
		all = append(all, plotter.XY{X: float64(s.Agents), Y: value(s)})
	}
	line, points, err := plotter.NewLinePoints(all)
	if err != nil {
		return err
	}
	line.Color, line.Width = plotutil.Color(0), vg.Points(1.5)
	points.GlyphStyleFunc = func(i int) draw.GlyphStyle {
		style := draw.GlyphStyle{Color: plotutil.Color(0), Radius: vg.Points(4), Shape: draw.CircleGlyph{}}
		if steps[i].Extrapolated {
			style.Shape = draw.RingGlyph{}
		}
		return style
	}
	p.Add(line, points)
	return nil
}

// scaleTable returns the steps as a table of Markdown.
func scaleTable(steps []step) string {
	var b strings.Builder
	b.WriteString("| agents | pods | watches | apiserver | its CPU at rest | requests/s at rest | watches renewed/s | an agent's API side " +
		"| after a restart: lists, watches, refused | busiest second | all back after | requests for others' objects |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range steps {
		agents, after := fmt.Sprint(s.Agents), "| – | – | – | – |\n"
		if s.Extrapolated {
			agents += " (extrapolated)"
		} else {
			after = fmt.Sprintf("| %d, %d, %d | %d | %.1f s | %d |\n",
				s.Restart.Lists, s.Restart.Watches, s.Restart.Refused, s.Restart.Peak, s.BackAfter, s.Foreign)
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %.0f MB | %.3f s/s | %.2f | %.2f | %.0f KB %s",
			agents, s.Pods, s.Watches, s.ResidentMB, s.RestCPU, s.RestRequests, s.Renewals, s.AgentKB, after)
	}
	return b.String()
}
