package monitoring

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

type dashboard struct {
	UID        string `json:"uid"`
	Title      string `json:"title"`
	Templating struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type variable struct {
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	Query      json.RawMessage `json:"query"`
	Definition string          `json:"definition"`
}

type panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  datasource `json:"datasource"`
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		Datasource   datasource `json:"datasource"`
		Expr         string     `json:"expr"`
		LegendFormat string     `json:"legendFormat"`
		RefID        string     `json:"refId"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../manifests/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Grafana's variables, as a range and as a label's value.
var grafana = strings.NewReplacer("$__rate_interval", "5m", "$node", ".*")

func TestDashboardAsksForWhatTheAgentHas(t *testing.T) {
	asked := 0
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			asked++
			expr := grafana.Replace(target.Expr)
			for _, problem := range checkExpression(expr) {
				t.Errorf("%s: %s: %s", p.Title, target.Expr, problem)
			}
			if !strings.Contains(target.Expr, `node=~"$node"`) {
				t.Errorf("%s: %s does not heed the chosen nodes", p.Title, target.Expr)
			}
			for _, label := range legendLabels(target.LegendFormat) {
				if !shows(t, expr, label) {
					t.Errorf("%s: the legend's %s is not among the labels of %s", p.Title, label, target.Expr)
				}
			}
		}
	}
	if asked < 20 {
		t.Errorf("%d expressions were read", asked)
	}
}

var inLegend = regexp.MustCompile(`\{\{(\w+)\}\}`)

func legendLabels(format string) (all []string) {
	for _, m := range inLegend.FindAllStringSubmatch(format, -1) {
		all = append(all, m[1])
	}
	return all
}

// shows reports whether what the expression returns bears the label.
func shows(t *testing.T, expr, label string) bool {
	t.Helper()
	e, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	aggregates, grouped := 0, false
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			aggregates++
			grouped = grouped || slices.Contains(a.Grouping, label)
		}
		return nil
	})
	return grouped || aggregates == 0 && slices.Contains(targetLabels, label)
}

// A dashboard that is imported elsewhere finds its data source by the variable.
func TestDashboardHasOneDataSourceToChoose(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" {
		t.Error("a dashboard without a name of its own cannot be replaced by its next version")
	}
	i := slices.IndexFunc(d.Templating.List, func(v variable) bool { return v.Name == "datasource" })
	if i < 0 || d.Templating.List[i].Type != "datasource" || string(d.Templating.List[i].Query) != `"prometheus"` {
		t.Errorf("variables %+v: none is the data source", d.Templating.List)
	}
	want := datasource{"prometheus", "${datasource}"}
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if p.Datasource != want || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s: data source %v, description %q, %d targets", p.Title, p.Datasource, p.Description, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource != want || refs[target.RefID] {
				t.Errorf("%s: target %s of data source %v", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
		}
	}
	for _, v := range d.Templating.List {
		if name, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			name, _, _ = strings.Cut(name, ",")
			if _, known := find(name); !known {
				t.Errorf("variable %s: no metric %s", v.Name, name)
			}
		}
	}
}

func TestPanelsHaveAnIDAndAPlaceOfTheirOwn(t *testing.T) {
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range readDashboard(t).Panels {
		if other, ok := ids[p.ID]; ok || p.ID == 0 {
			t.Errorf("%s has the id %d, as %q has", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		if p.GridPos.X < 0 || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s reaches out of the grid's 24 columns", p.Title)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok && other != p.Title {
					t.Errorf("%s lies over %s", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
}
