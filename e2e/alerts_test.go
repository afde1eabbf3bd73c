package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const alertRules = "../deploy/prometheus/rules.yaml"

// An alert is a rule of deploy/prometheus/rules.yaml.
type alert struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func readAlerts(t testing.TB) (all []alert) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, alertRules)), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// readPanels returns the expressions of the dashboard, by the panel's title.
func readPanels(t testing.TB) map[string][]string {
	t.Helper()
	var dashboard struct {
		Title  string
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../deploy/grafana/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	panels, ids := map[string][]string{}, map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d, %q, has another's id, no title, no place or nothing to show", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			panels[p.Title] = append(panels[p.Title], target.Expr)
		}
	}
	return panels
}

var (
	usedMetric = regexp.MustCompile(`\b((?:countersign|go|process)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
)

// checkUses asserts that every metric of an alert and of a panel is one that servers have, here or in the
// tests that elsewhere names, and that the
// values they look for are those that doc/operating.md names, which TestMetrics saw counted.
func checkUses(t *testing.T, names []string, rows map[string]documented) {
	t.Helper()
	uses := readPanels(t)
	for _, a := range readAlerts(t) {
		uses[a.Alert] = append(uses[a.Alert], a.Expr)
	}
	for user, expressions := range uses {
		for _, m := range usedMetric.FindAllStringSubmatch(strings.Join(expressions, "\n"), -1) {
			base := m[1]
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if histogram, ok := strings.CutSuffix(m[1], suffix); ok && slices.Contains(names, histogram) {
					base = histogram
				}
			}
			if !slices.Contains(names, base) && elsewhere[base] == "" {
				t.Errorf("%s looks at %s, which no server has", user, m[1])
			}
			for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
				row := rows[base]
				if slices.Contains([]string{"job", "instance", "route", "method", "status"}, label[1]) {
					continue
				}
				for value := range strings.SplitSeq(label[3], "|") {
					if !regexp.MustCompile(`\b`+value+`\b`).MatchString(row.text) || !strings.Contains(row.labels, "`"+label[1]+"`") {
						t.Errorf("%s looks at %s with %s=%q, of which doc/operating.md does not speak", user, base, label[1], value)
					}
				}
			}
		}
	}
}

// TestAlerts holds documentation and rules together: each metric has alerts that look at it, or a
// reason why not, and each alert is in the row of a metric.
func TestAlerts(t *testing.T) {
	t.Parallel()
	alerts, named := map[string]alert{}, map[string]bool{"CountersignDown": true} // of up, which is Prometheus' own
	for _, a := range readAlerts(t) {
		if _, twice := alerts[a.Alert]; twice {
			t.Errorf("%s is there twice", a.Alert)
		}
		alerts[a.Alert] = a
		if s := a.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s has severity %q", a.Alert, s)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s does not say what is wrong, or what to do", a.Alert)
		}
	}
	for metric, row := range documentedMetrics(t) {
		if why, none := strings.CutPrefix(row.alert, "none: "); none && len(why) > 10 {
			continue
		}
		for name := range strings.SplitSeq(row.alert, ", ") {
			a, ok := alerts[name]
			if !ok || !strings.Contains(a.Expr, strings.TrimSuffix(metric, "*")) {
				t.Errorf("doc/operating.md names alert %q for %s; want one of %s that looks at it", name, metric, alertRules)
			}
			named[name] = true
		}
	}
	for name := range alerts {
		if !named[name] {
			t.Errorf("%s is in no row of the metrics in doc/operating.md", name)
		}
	}
}

// An alarm is what brings an alert about, in the notation of promtool: a sample a minute, for an
// hour. What is well does not.
type alarm struct {
	series    string // labels but job and instance
	wrong, ok string
	also      map[string]string // other series that the expression needs, and their samples
}

var alarms = map[string]alarm{
	"CountersignDown":      {series: `up{}`, wrong: "0x60", ok: "1x60"},
	"CountersignReadsFail": {series: `countersign_http_requests_total{route="extension",method="GET",status="503"}`, wrong: "0+10x60", ok: "0x60", also: map[string]string{`countersign_http_requests_total{route="extension",method="GET",status="200"}`: "0+100x60"}},
	"CountersignReadsSlow": {series: `countersign_http_request_duration_seconds_bucket{route="lookaside",le="1"}`, wrong: "0x60", ok: "0+100x60", also: map[string]string{
		`countersign_http_request_duration_seconds_bucket{route="lookaside",le="2.5"}`: "0+100x60", `countersign_http_request_duration_seconds_bucket{route="lookaside",le="+Inf"}`: "0+100x60"}},
	"CountersignErrors":              {series: `countersign_http_requests_total{route="sign",method="POST",status="500"}`, wrong: "0+1x60", ok: "7x60"},
	"CountersignRestarts":            {series: `process_start_time_seconds{}`, wrong: "0+600x60", ok: "9x60"},
	"CountersignFilesOpen":           {series: `process_open_fds{}`, wrong: "900x60", ok: "100x60", also: map[string]string{`process_max_fds{}`: "1000x60"}},
	"CountersignGoroutines":          {series: `go_goroutines{}`, wrong: "20000x60", ok: "50x60"},
	"CountersignStoreAway":           {series: `countersign_store_away{}`, wrong: "1x60", ok: "0x60"},
	"CountersignServesStale":         {series: `countersign_stale_answers_total{}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignServesUnsigned":      {series: `countersign_unsigned_answers_total{}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignRegistryUnavailable": {series: `countersign_registry_questions_total{action="pull",answer="unavailable"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignNotificationsFail":   {series: `countersign_notifications_total{outcome="failed"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignLookasideAway":       {series: `countersign_lookaside_requests_total{answer="away"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignLookasideRefused":    {series: `countersign_lookaside_signatures_total{outcome="refused"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignUploadsFail":         {series: `countersign_uploads_total{outcome="failed"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignUploadsRefused":      {series: `countersign_uploads_total{outcome="refused"}`, wrong: "0+5x60", ok: "0+1x60", also: map[string]string{`countersign_uploads_total{outcome="admitted"}`: "0+4x60"}},
	"CountersignQueueWaits":          {series: `countersign_queue_age_seconds{}`, wrong: "0+60x60", ok: "10x60"},
	"CountersignQueueDead":           {series: `countersign_queue_tasks{state="dead"}`, wrong: "2x60", ok: "0x60"},
	"CountersignQueueRetries":        {series: `countersign_queue_attempts_total{outcome="retried"}`, wrong: "0+60x60", ok: "0+1x60"},
	"CountersignSignerWrong":         {series: `countersign_signer_requests_total{key="a",outcome="rejected"}`, wrong: "0x50 1x9", ok: "0x60"},
	"CountersignSignerFails":         {series: `countersign_signer_requests_total{key="a",outcome="late"}`, wrong: "0+5x60", ok: "5x60"},
	"CountersignSignerSlow": {series: `countersign_signer_duration_seconds_bucket{key="a",le="2.5"}`, wrong: "0x60", ok: "0+100x60", also: map[string]string{
		`countersign_signer_duration_seconds_bucket{key="a",le="5"}`: "0+100x60", `countersign_signer_duration_seconds_bucket{key="a",le="+Inf"}`: "0+100x60"}},
	"CountersignKeyEndsSoon":          {series: `countersign_key_end_timestamp_seconds{fingerprint="A",use="own"}`, wrong: "1000000x60", ok: "9000000x60"},
	"CountersignKeyEndsNow":           {series: `countersign_key_end_timestamp_seconds{fingerprint="A",use="own"}`, wrong: "500000x60", ok: "9000000x60"},
	"CountersignKeySpent":             {series: `countersign_key_usable{fingerprint="A",use="own"}`, wrong: "0x60", ok: "1x60", also: map[string]string{`countersign_key_references{fingerprint="A",use="own"}`: "3x60"}},
	"CountersignFileDoesNotRead":      {series: `countersign_file_current{file="tls"}`, wrong: "0x60", ok: "1x60"},
	"CountersignPolicyDoesNotRead":    {series: `countersign_policy_current{policy="admission"}`, wrong: "0x60", ok: "1x60"},
	"CountersignWithdrawalsUnwritten": {series: `countersign_withdrawals_file_current{}`, wrong: "0x60", ok: "1x60"},
	"CountersignWithdrawalsRestored":  {series: `countersign_withdrawals_restored_total{}`, wrong: "2x60", ok: "0x60"},
}

// of writes a series as Prometheus has it, with the labels that a scrape of this instance adds.
func (a alarm) of(instance, series, values string) map[string]string {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	labels = strings.TrimPrefix(fmt.Sprintf(`%s,job="countersign",instance=%q`, labels, instance), ",")
	return map[string]string{"series": name + "{" + labels + "}", "values": values}
}

// TestAlertsFire has promtool play each alert's trouble on an instance of its own, on which that alert
// and no other fires; and as many instances that are well, on which none does.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	need(t, "promtool")
	rules, err := filepath.Abs(alertRules)
	if err != nil {
		t.Fatal(err)
	}
	var series []map[string]string
	var firing []map[string]any
	for name, a := range alarms {
		well := "well, unlike " + name
		series = append(series, a.of(name, a.series, a.wrong), a.of(well, a.series, a.ok))
		for other, values := range a.also {
			series = append(series, a.of(name, other, values), a.of(well, other, values))
		}
		firing = append(firing, map[string]any{"labels": fmt.Sprintf(`{alertname=%q,instance=%[1]q}`, name), "value": 1})
	}
	for _, a := range readAlerts(t) {
		if _, ok := alarms[a.Alert]; !ok {
			t.Errorf("nothing here brings %s about", a.Alert)
		}
	}
	n := newNode(t)
	play := func(firing []map[string]any) (string, error) {
		content, err := yaml.Marshal(map[string]any{"rule_files": []string{rules}, "evaluation_interval": "1m", "tests": []any{
			map[string]any{"interval": "1m", "input_series": series, "promql_expr_test": []any{
				map[string]any{"expr": `count by (alertname, instance) (ALERTS{alertstate="firing"})`, "eval_time": "59m", "exp_samples": firing},
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(n.dir, "test.yaml"), string(content))
		return n.run(t, "promtool", "test", "rules", "test.yaml")
	}
	works(t)(n.run(t, "promtool", "check", "rules", rules))
	works(t)(play(firing))
	fails(t, "FAILED")(play(firing[1:])) // it does see what fires and should not
}
