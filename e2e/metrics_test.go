package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// samples is what /metrics says: the value of each series, by name and labels as they stand there.
type samples map[string]float64

var (
	sampleLine = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{.*\})? (\S+)$`)
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (\S+) `)
	helpLine   = regexp.MustCompile(`(?m)^# HELP (\S+) \S`)
)

// scrape reads the metrics: the series, and the names of the metrics they belong to.
func (s *server) scrape(t testing.TB) (samples, []string) {
	t.Helper()
	a := ask(t, s.debug, "GET", "/metrics", "").want(t, 200)
	if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
		t.Errorf("/metrics is of type %q", got)
	}
	all := samples{}
	for _, line := range strings.Split(a.body, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("/metrics has a line that does not parse: %q", line)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all[m[1]+m[2]] = value
	}
	var names []string
	for _, m := range typeLine.FindAllStringSubmatch(a.body, -1) {
		names = append(names, m[1])
	}
	for _, name := range names {
		if !slices.ContainsFunc(helpLine.FindAllStringSubmatch(a.body, -1), func(m []string) bool { return m[1] == name }) {
			t.Errorf("%s has no help", name)
		}
	}
	return all, names
}

// sum adds the series of a metric whose labels have all these, as route="registry".
func (all samples) sum(name string, labels ...string) float64 {
	total := 0.0
	for series, value := range all {
		own, rest, _ := strings.Cut(series, "{")
		if own != name {
			continue
		}
		if !slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains("{"+rest, label) }) {
			total += value
		}
	}
	return total
}

// metricRow is a row of doc/operating.md: a metric, or with a star all of a prefix; its labels; what
// it counts; and its alerts.
var metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+\\*?)` \\| *([^|]*?) *\\| ([^|]*) \\| ([^|]*) \\|$")

// A documented metric has a value of a label for each of those that its text names in backticks.
type documented struct{ labels, text, alert string }

func documentedMetrics(t testing.TB) map[string]documented {
	t.Helper()
	_, section, found := strings.Cut(read(t, "../doc/operating.md"), "\n## Metrics\n")
	if !found {
		t.Fatal("doc/operating.md has no section Metrics")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string]documented{}
	for _, m := range metricRow.FindAllStringSubmatch(section, -1) {
		rows[m[1]] = documented{m[2], m[3], m[4]}
	}
	if len(rows) == 0 {
		t.Fatal("doc/operating.md has no metric")
	}
	return rows
}

// never are what nothing here brings about, and why.
var never = map[string]string{
	`outcome="failed"`:  "the store would have to fail",
	`trigger="request"`: "TestSign asks for it",
	`trigger="resign"`:  "TestRotation asks for it",
}

// elsewhere are metrics of what has to go wrong first, and the test that looks at them.
var elsewhere = map[string]string{
	"countersign_file_current":         "TestAccessRefused",
	"countersign_queue_tasks":          "TestQueue",
	"countersign_queue_age_seconds":    "TestQueue",
	"countersign_queue_attempts_total": "TestQueue",

	"countersign_store_away":                "TestDatabaseAway",
	"countersign_stale_answers_total":       "TestDatabaseAway",
	"countersign_unsigned_answers_total":    "TestDatabaseAway",
	"countersign_key_usable":                "TestKeys",
	"countersign_key_end_timestamp_seconds": "TestKeys",
	"countersign_key_references":            "TestKeys",
	"countersign_signer_requests_total":     "TestSigner",
	"countersign_signer_duration_seconds":   "TestSigner",
}

var quotedWord = regexp.MustCompile("`([a-z]+)`")

// TestMetrics compares what the server counts with what doc/operating.md says of it, after
// everything has happened that is counted.
func TestMetrics(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	s := trusting(t)
	s.live(t)
	// What happens only with other settings.
	withdrawals := filepath.Join(t.TempDir(), "withdrawals") // of which the store has nothing
	write(t, withdrawals, fmt.Sprintf(`{"image":{"host":"registry.example.test","repository":"app","digest":%q},`+
		`"withdrawn":[{"id":"x","scope":"image","reason":"x","subject":"x","time":"2026-01-01T00:00:00Z"}],"cursor":""}`+"\n", digestOf(nil)))
	other := trusting(t, "-sign-on", "upload", "-config", config(t, "admission: {foreign: drop}\nretention: {deleted: drop, after: 2s}\nwithdrawals: "+withdrawals+"\n"))
	i, reference := newImage("other settings"), other.address+"/ns/app:v1"
	other.push(t, i, "ns/app", "v1")
	for _, person := range []string{"alice", "bob"} { // bob's is dropped
		other.upload(t, "ns/app", i.digest(), sign(t, person, reference, i.digest())).want(t, 201)
	}
	other.wantSigned(t, "ns/app", i.digest(), "alice "+reference, "server "+reference)
	other.deletes(t, "ns/app", i.digest())
	other.tag(t, i, "ns/app", "v1") // which cancels that its signatures are dropped
	other.deletes(t, "ns/app", i.digest())
	eventually(t, "what was deleted is dropped", func() bool { return len(other.signatures(t, "ns/app", i.digest())) == 0 })
	beside := besideWithLookasides(t, s)

	all, names := s.scrape(t)
	rows := documentedMetrics(t)
	for _, name := range names {
		if _, ok := rows[name]; !ok && !slices.ContainsFunc(slices.Collect(maps.Keys(rows)), func(row string) bool {
			prefix, star := strings.CutSuffix(row, "*")
			return star && strings.HasPrefix(name, prefix)
		}) {
			t.Errorf("doc/operating.md does not say what %s is", name)
		}
	}
	for _, server := range []*server{other, beside} {
		more, own := server.scrape(t)
		for series, value := range more {
			if strings.HasPrefix(series, "countersign_") {
				all[series] += value
			}
		}
		names = append(names, own...)
	}
	checkUses(t, names, rows)
	tests := testNames(t)
	for name, row := range rows {
		if test := elsewhere[name]; test != "" && !tests[test] {
			t.Errorf("%s is for %s to look at, which is no test here", name, test)
		}
		if elsewhere[name] != "" {
			continue
		}
		checkDocumented(t, all, names, name, row)
	}
}

// checkDocumented asserts that a metric exists and has counted, for each value of its label that
// its text names.
func checkDocumented(t *testing.T, all samples, names []string, name string, row documented) {
	t.Helper()
	if prefix, star := strings.CutSuffix(name, "*"); star {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
			t.Errorf("doc/operating.md speaks of %s, and there are none", name)
		}
		return
	}
	series := name
	if !slices.Contains(names, name) {
		t.Errorf("doc/operating.md speaks of %s, which is not there", name)
	}
	if strings.HasSuffix(name, "_seconds") {
		series = name + "_count"
	}
	if all.sum(series) == 0 {
		t.Errorf("%s is zero after everything has happened", name)
	}
	labels := quotedWord.FindAllStringSubmatch(row.labels, -1)
	if len(labels) != 1 {
		return
	}
	for _, value := range quotedWord.FindAllStringSubmatch(row.text, -1) {
		label := fmt.Sprintf("%s=%q", labels[0][1], value[1])
		if all.sum(series, label) == 0 && never[label] == "" {
			t.Errorf("%s{%s} is zero after everything has happened", name, label)
		}
	}
}

// besideWithLookasides does once whatever is counted beside a registry and of lookasides.
func besideWithLookasides(t *testing.T, registry *server) *server {
	t.Helper()
	i := newImage("metrics of a lookaside")
	first := fmt.Sprintf("/ns/app@%s/signature-1", strings.Replace(i.digest(), ":", "=", 1))
	second := strings.TrimSuffix(first, "1") + "2"
	signature := string(sign(t, "alice", "registry.example.test/ns/app:v1", i.digest()))
	lookaside := func(path, files string) string {
		return fmt.Sprintf("{host: registry.example.test, url: '%s%s', private: true}", files, path)
	}
	good := oldLookaside(t, map[string]string{first: signature, second: string(sign(t, "bob", "registry.example.test/ns/app:v1", i.digest()))})
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	t.Cleanup(broken.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	writeSecret(t, secret, hookSecret)
	s := trusting(t, "-registry", "http://"+registry.address, "-config", config(t, "hosts: [registry.example.test]\nregistry: {notifications: "+secret+"}\nlookasides:\n- "+
		strings.Join([]string{lookaside("", good), lookaside("/", good), lookaside("", broken.URL), lookaside("", "http://127.0.0.1:1")}, "\n- ")+"\n"))
	s.get(t, extension("ns/app", i.digest())).want(t, 200)
	s.as("Bearer x").do(t, "PUT", extension("ns/app", i.digest()), "").want(t, 400)
	registry.push(t, i, "ns/app", "notified")
	for _, body := range []string{event("push", "ns/app", "notified", ""), event("push", "ns/app", "never", ""), event("delete", "ns/app", "never", "")} {
		s.as("Bearer "+hookSecret).do(t, "POST", "/api/v1/notifications", body).want(t, 204)
	}
	return s
}

// live does once whatever is counted.
func (s *server) live(t *testing.T) {
	t.Helper()
	i, reference := newImage("live"), s.address+"/ns/live:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))

	j := newImage("countersigned")
	first := sign(t, "alice", s.address+"/ns/live:v2", j.digest())
	s.push(t, j, "ns/live", "v1")
	s.upload(t, "ns/live", j.digest(), first).want(t, 201) // before its tag
	s.upload(t, "ns/live", j.digest(), first).want(t, 201) // known
	s.tag(t, j, "ns/live", "v2")                           // signed for the push
	s.do(t, "POST", lookaside("ns/live", j.digest()), string(sign(t, "carol", s.address+"/ns/live:v2", j.digest()))).want(t, 201)
	s.upload(t, "ns/live", j.digest(), sign(t, "bob", s.address+"/ns/live:v2", j.digest())).want(t, 403)
	s.get(t, lookaside("ns/live", j.digest())+"/signature-1").want(t, 200)
	tree := t.TempDir()
	put(t, tree, "ns/live", j.digest(), 1, first)
	put(t, tree, "ns/live", j.digest(), 2, sign(t, "alice", s.address+"/ns/live:v3", j.digest()))
	put(t, tree, "ns/live", j.digest(), 3, sign(t, "bob", s.address+"/ns/live:v3", j.digest()))
	s.cli(t, 1, "import", tree)
	s.get(t, "/nowhere").want(t, http.StatusNotFound)
	ask(t, s.debug, "GET", "/healthz", "").want(t, 200)
}

// TestMetricsCount asserts exact counts, on a server that nobody else uses.
func TestMetricsCount(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "upload")
	i, reference := newImage("counted"), s.address+"/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	before, _ := s.scrape(t)
	content := sign(t, "alice", reference, i.digest())
	s.upload(t, "ns/app", i.digest(), content).want(t, 201)
	s.upload(t, "ns/app", i.digest(), content).want(t, 201)
	s.do(t, "PUT", lookaside("ns/app", i.digest())+"/signature-1", string(content)).want(t, 200)
	s.upload(t, "ns/app", i.digest(), sign(t, "bob", reference, i.digest())).want(t, 403)
	s.do(t, "PUT", extension("ns/app", i.digest()), "no JSON").want(t, 400)
	s.do(t, "POST", lookaside("ns/app", i.digest()), strings.Repeat("x", 1<<20)).want(t, 413)
	s.do(t, "BREW", extension("ns/app", i.digest()), "").want(t, 405)
	s.get(t, extension("ns/app", i.digest())).want(t, 200)
	after, _ := s.scrape(t)
	for _, want := range []struct {
		name   string
		labels []string
		count  float64
	}{
		{"countersign_uploads_total", []string{`outcome="admitted"`}, 1},
		{"countersign_uploads_total", []string{`outcome="known"`}, 2},
		{"countersign_uploads_total", []string{`outcome="refused"`}, 3},
		{"countersign_signatures_made_total", []string{`trigger="upload"`}, 1},
		{"countersign_signatures_made_total", []string{`trigger="push"`}, 0},
		{"countersign_http_requests_total", []string{`route="extension"`, `method="PUT"`, `status="201"`}, 2},
		{"countersign_http_requests_total", []string{`route="extension"`, `method="PUT"`, `status="403"`}, 1},
		{"countersign_http_requests_total", []string{`route="extension"`, `method="other"`, `status="405"`}, 1},
		{"countersign_http_requests_total", []string{`route="lookaside"`, `method="POST"`, `status="413"`}, 1},
		{"countersign_http_request_duration_seconds_count", []string{`route="extension"`}, 6},
		{"countersign_http_request_duration_seconds_count", []string{`route="lookaside"`}, 2},
	} {
		if got := after.sum(want.name, want.labels...) - before.sum(want.name, want.labels...); got != want.count {
			t.Errorf("%s%q grew by %v, want %v", want.name, want.labels, got, want.count)
		}
	}
	// What a client makes up must not make series.
	for n := range 20 {
		s.get(t, fmt.Sprintf("/made-up-%d", n)).want(t, 404)
		s.do(t, fmt.Sprintf("VERB%d", n), extension("ns/app", i.digest()), "").want(t, 405)
	}
	final, _ := s.scrape(t)
	count := func(all samples) (n int) {
		for series := range all {
			if strings.HasPrefix(series, "countersign_http_requests_total") {
				n++
			}
		}
		return n
	}
	if got, had := count(final), count(after); got > had+3 {
		t.Errorf("there were %d series of requests, and after made-up paths and methods there are %d", had, got)
	}
}
