package main

import (
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	width  = 9 * vg.Inch
	height = 4 * vg.Inch
	// targetMB is what the agent may hold on a full node.
	targetMB = 60
)

// drawLatency draws the latencies of the agent and of the bare server by
// percentile, on one connection and on a new one for each request.
func (r report) drawLatency(path string) error {
	kept, err := latencies("one connection, kept", r.KeepAlive)
	if err != nil {
		return err
	}
	fresh, err := latencies("a connection for each request", r.NewConnection)
	if err != nil {
		return err
	}
	return save(path, kept, fresh)
}

func latencies(title string, sides []spread) (*plot.Plot, error) {
	p := newPlot(title, "percentile", "µs")
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	for i, side := range sides {
		points := make(plotter.XYs, 0, len(side.Percentiles))
		for percentile, v := range side.Percentiles {
			if percentile < 100 { // the slowest of all says nothing
				points = append(points, plotter.XY{X: float64(percentile), Y: v})
			}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		line.Dashes = plotutil.Dashes(i)
		p.Add(line)
		p.Legend.Add(side.Side, line)
	}
	return p, nil
}

// drawMemory draws what the agent holds against how many pods it serves.
func (r report) drawMemory(path string) error {
	p := newPlot("the agent's memory after load", "steered pods", "MB")
	p.Y.Min = 0
	p.Y.Max = targetMB + 5
	p.Legend.Left = true
	var all, anonymous, target plotter.XYs
	for _, m := range r.Memory {
		x := float64(m.Pods)
		all, anonymous = append(all, plotter.XY{X: x, Y: m.RSS}), append(anonymous, plotter.XY{X: x, Y: m.Anon})
		target = append(target, plotter.XY{X: x, Y: targetMB})
	}
	for i, line := range []struct {
		name   string
		points plotter.XYs
	}{{"resident", all}, {"of it not from files", anonymous}, {"target", target}} {
		l, err := plotter.NewLine(line.points)
		if err != nil {
			return err
		}
		l.Color, l.Width, l.Dashes = plotutil.Color(i), vg.Points(1.5), plotutil.Dashes(i)
		p.Add(l)
		p.Legend.Add(line.name, l)
	}
	return save(path, p)
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.BackgroundColor = color.White
	p.Add(plotter.NewGrid())
	return p
}

// save writes the plots, side by side, as SVG.
func save(path string, plots ...*plot.Plot) error {
	canvas := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Points(12), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(12)}
	for i, one := range plot.Align([][]*plot.Plot{plots}, tiles, draw.New(canvas))[0] {
		plots[i].Draw(one)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
