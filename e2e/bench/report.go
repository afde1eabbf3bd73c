package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A goal is a ratio that has a limit, with what it was in each round.
type goal struct {
	name   string
	rounds []float64
	limit  float64
	most   bool   // the limit is the most it may be; else the least
	unit   string // empty: it is a ratio
}

func (g goal) reached() bool {
	if g.most {
		return median(g.rounds) <= g.limit
	}
	return median(g.rounds) >= g.limit
}

// A figure is something that was measured on the way: it says what the ratios are made of.
type figure struct {
	part, name, unit string
	rounds           []float64
}

// A report is what a run found.
type report struct {
	scale   scale
	flat    bool
	machine []string
	goals   []goal
	figures []figure
	broken  []string
	took    time.Duration
}

func (r *report) failed(part string, err error) {
	r.broken = append(r.broken, fmt.Sprintf("%s: %s", part, strings.ReplaceAll(err.Error(), "\n", " ")))
}

func (r *report) atLeast(limit float64, name string, rounds []float64) {
	r.goals = append(r.goals, goal{name: name, rounds: rounds, limit: limit})
}

func (r *report) atMost(limit float64, unit, name string, rounds []float64) {
	r.goals = append(r.goals, goal{name: name, rounds: rounds, limit: limit, most: true, unit: unit})
}

func (r *report) figure(part, name, unit string, rounds []float64) {
	r.figures = append(r.figures, figure{part, name, unit, rounds})
}

// markdown is what is printed and kept.
func (r *report) markdown() string {
	var b strings.Builder
	title := "What the server costs, beside others"
	if r.flat {
		title = "What the server costs as it grows"
	}
	fmt.Fprintf(&b, "# %s\n\n", title)
	fmt.Fprintf(&b, "Written by `make bench%s`; doc/performance.md says what each line is. Each is the median of its rounds, with the lowest and the highest.\n\n",
		map[bool]string{true: "-flat"}[r.flat])
	for _, fact := range r.machine {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	fmt.Fprintf(&b, "- scale: %+v\n- it took %.0f s\n", r.scale, r.took.Seconds())
	b.WriteString("\n| goal | wanted | is | lowest | highest | |\n|---|---|---|---|---|---|\n")
	for _, g := range r.goals {
		sign, verdict := "≥", "reached"
		if g.most {
			sign = "≤"
		}
		if !g.reached() {
			verdict = "**missed**"
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s | %s | %s |\n", g.name, sign, number(g.limit, g.unit),
			number(median(g.rounds), g.unit), number(slices.Min(g.rounds), g.unit), number(slices.Max(g.rounds), g.unit), verdict)
	}
	for _, broken := range r.broken {
		fmt.Fprintf(&b, "| %s | | | | | **not measured** |\n", strings.ReplaceAll(broken, "|", "/"))
	}
	b.WriteString("\n| part | figure | is | lowest | highest |\n|---|---|---|---|---|\n")
	for _, f := range r.figures {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.part, f.name,
			number(median(f.rounds), f.unit), number(slices.Min(f.rounds), f.unit), number(slices.Max(f.rounds), f.unit))
	}
	return b.String()
}

// number has three digits, or all those before the point.
func number(v float64, unit string) string {
	digits := 2
	if v != 0 {
		digits = max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", min(digits, 4), v, unit))
}

// median is NaN of nothing: no limit is reached by that.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// ratios are taken within each round.
func ratios(of, to []float64) []float64 {
	r := make([]float64, min(len(of), len(to)))
	for i := range r {
		r[i] = of[i] / to[i]
	}
	return r
}

// each takes rounds together.
func each(f func(v ...float64) float64, series ...[]float64) []float64 {
	var r []float64
	for i := range series[0] {
		var v []float64
		for _, s := range series {
			v = append(v, s[i])
		}
		r = append(r, f(v...))
	}
	return r
}
