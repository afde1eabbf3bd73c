package e2e

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// explain finds the reason why our status is not the recorded one.
func (r *replay) explain(t *testing.T, e exchange, want int) {
	t.Helper()
	if e.status == want {
		return
	}
	for n, d := range differences {
		match, err := path.Match(d.files, r.tr.name)
		if err != nil {
			t.Fatal(err)
		}
		if match && d.method == e.method && (d.recorded == e.status || d.recorded == 0) && d.ours == want && regexp.MustCompile(d.target).MatchString(e.target) {
			r.used.add(n)
			return
		}
	}
	t.Errorf("%s.txt:%d %s %s was answered %d, is answered %d, and no row of differences says why", r.tr.name, e.line, e.method, e.target, e.status, want)
}

func (r *replay) checkPing(t *testing.T, e exchange, a answer) {
	t.Helper()
	a.says(t, "Docker-Distribution-Api-Version", "registry/2.0")
	if got := a.header.Values(advertisement); r.advertised() != slices.Equal(got, []string{"1"}) || !r.advertised() && got != nil {
		t.Errorf("%s: %s is %q, and it is advertised: %t", a.asked, advertisement, got, r.advertised())
	}
	if e.status == 200 {
		sameJSON(t, a, e.answer)
	}
}

// checkList asserts that exactly what was stored is listed, in its order and bytes, and as many
// as in the recording.
func (r *replay) checkList(t *testing.T, e exchange, a answer) {
	t.Helper()
	a.says(t, "Content-Type", "application/json; charset=utf-8")
	m := extensionPath.FindStringSubmatch(pathOf(e.target))
	stored := r.stored[m[1]+"@"+m[2]]
	var list struct{ Signatures []entry }
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || list.Signatures == nil {
		t.Errorf("%s: %v: %q", a.asked, err, tail(a.body, 300))
		return
	}
	var got [][]byte
	for _, s := range list.Signatures {
		if s.SchemaVersion != 2 || s.Type != "atomic" || !strings.HasPrefix(s.Name, m[2]+"@") {
			t.Errorf("%s: an entry of schemaVersion %d, type %q, name %q", a.asked, s.SchemaVersion, s.Type, s.Name)
		}
		got = append(got, s.Content)
	}
	if !slices.EqualFunc(got, stored, slices.Equal[[]byte]) {
		t.Errorf("%s: lists %d signatures, which are not the %d that are stored", a.asked, len(got), len(stored))
	}
	if n, ok := recordedList(e); ok && n != len(stored) && emptied[fmt.Sprintf("%s:%d", r.tr.name, e.line)] == "" {
		t.Errorf("%s: lists %d signatures, and %d were recorded", a.asked, len(stored), n)
	}
}

// emptied are the lists that are longer here than recorded, and why.
var emptied = map[string]string{
	"54-new-ext-pull-then-push-existing:185": "the recorded server forgot its signatures before the third command",
}

var issuerLine = regexp.MustCompile(`issuer fpr v4 ([0-9A-F]{40})`)

// checkUpload asserts that the stranger is told which key it is, and sends the upload once more
// with a signature by a trusted one.
func (r *replay) checkUpload(t *testing.T, e exchange, a answer) {
	t.Helper()
	m := extensionPath.FindStringSubmatch(pathOf(e.target))
	var sent entry
	if err := json.Unmarshal([]byte(e.body), &sent); err != nil {
		t.Fatalf("%s: %v", a.asked, err)
	}
	issuer := issuerLine.FindSubmatch(gpg(t, sent.Content, "--list-packets"))
	if issuer == nil {
		t.Fatalf("%s: the recorded signature names no key", a.asked)
	}
	a.refused(t, 403, "DENIED", string(issuer[1]), "trusted")

	content, known := r.again[m[1]+string(sent.Content)]
	if !known {
		content = r.sign(t, m[1], m[2])
		r.again[m[1]+string(sent.Content)] = content
		r.stored[m[1]+"@"+m[2]] = append(r.stored[m[1]+"@"+m[2]], content)
	}
	body := wire(t, entry{2, m[2] + "@" + digestOf(content)[len("sha256:"):][:32], "atomic", content})
	head := strings.Replace(e.request, "\nContent-Length: "+headerOf(e.request, "Content-Length"), fmt.Sprintf("\nContent-Length: %d", len(body)), 1)
	r.s.raw(t, exchange{request: head, body: body}.wire()).want(t, 201)
}

func (r *replay) checkLookaside(t *testing.T, e exchange, a answer) {
	t.Helper()
	if a.status != 200 {
		a.says(t, "Cache-Control", "no-store")
		return
	}
	m := lookasidePath.FindStringSubmatch(pathOf(e.target))
	n, _ := strconv.Atoi(m[3])
	if a.body != string(r.stored[m[1]+"@sha256:"+m[2]][n-1]) {
		t.Errorf("%s: other bytes than were uploaded", a.asked)
	}
	a.says(t, "Content-Type", "application/octet-stream")
}

// checkRegistry compares what clients read of a registry's answer.
func (r *replay) checkRegistry(t *testing.T, e exchange, a answer) {
	t.Helper()
	if recorded := e.header.Get("Location"); a.status == 202 && recorded != "" {
		r.uploads[recorded] = a.header.Get("Location")
	}
	for _, name := range []string{"Docker-Content-Digest", "Docker-Distribution-Api-Version"} {
		if recorded := e.header.Get(name); recorded != "" {
			a.says(t, name, recorded)
		}
	}
	switch {
	case a.status >= 400 && e.answer != "":
		if got, want := errorCode(t, a.body), errorCode(t, e.answer); got != want {
			t.Errorf("%s: error code %q, want %q", a.asked, got, want)
		}
	case a.status == 200:
		for _, name := range []string{"Content-Length", "Content-Type"} {
			if recorded := e.header.Get(name); recorded != "" {
				a.says(t, name, recorded)
			}
		}
		switch content := registryPath.MatchString(pathOf(e.target)); {
		case e.method == "GET" && !content:
			sameJSON(t, a, e.answer)
		case e.method == "GET" && a.body != e.answer:
			t.Errorf("%s: other bytes than recorded: %q", a.asked, tail(a.body, 300))
		}
	}
}

func sameJSON(t *testing.T, a answer, recorded string) {
	t.Helper()
	var got, want any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Errorf("%s: %v: %q", a.asked, err, tail(a.body, 300))
	}
	if err := json.Unmarshal([]byte(recorded), &want); err != nil {
		t.Fatalf("%s: the recording: %v", a.asked, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %s, want %s", a.asked, a.body, recorded)
	}
}

func errorCode(t *testing.T, body string) string {
	t.Helper()
	var list struct{ Errors []struct{ Code string } }
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Errors) != 1 {
		t.Errorf(`%v, want {"errors":[…]} of one: %q`, err, body)
		return ""
	}
	return list.Errors[0].Code
}
