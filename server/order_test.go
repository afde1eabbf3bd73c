package server_test

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
)

// A counted body says how often it was read.
type counted struct {
	strings.Reader
	reads atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	c.reads.Add(1)
	return c.Reader.Read(b)
}

// Of somebody who may not upload no body is read, and nothing is parsed or verified: that costs, and
// a hostile one as much as it can.
func TestAccessBeforeVerification(t *testing.T) {
	t.Parallel()
	pusher := caller{name: "pusher", known: true, grants: map[string][]access.Action{host + "/prod/": {access.Pull, access.Push}}}
	puller := caller{name: "puller", known: true, grants: map[string][]access.Action{host + "/prod/": {access.Pull}}}
	anonymous, stranger := caller{}, caller{name: "stranger", token: "nobody-knows-this-one"}
	var asked atomic.Int64 // how often somebody wanted the keys to verify with
	nobody := policy.Trust([]string{host}, signature.Join())
	current := func() *policy.Policy { asked.Add(1); return nobody }
	known := []caller{pusher, puller}
	handler, _, _ := controlled(t, known, func(c *server.Config) {
		c.Door = admission.New(admission.Config{Hosts: []string{host}, Policy: func(time.Time) *policy.Policy { return current() }, Clients: signature.AllClients, Clock: time.Now})
		c.Profiles = map[string]func() *policy.Policy{"default": current}
	})
	pusher, puller = known[0], known[1]

	entry := `{"schemaVersion":2,"type":"atomic","name":"` + digest + `@` + strings.Repeat("0", 32) + `","content":"owGbwMvMwMEYbMlVB="}`
	at := "/sigstore/prod/app@" + strings.Replace(digest, ":", "=", 1)
	uploads := [][3]string{
		{"PUT", api.ExtensionPrefix + "prod/app/signatures/" + digest, entry}, {"PUT", at + "/signature-1", "\xa3\x01hello"}, {"POST", at, "\xa3\x01hello"},
		{"POST", "/lookaside/" + host + strings.TrimPrefix(at, "/sigstore"), "\xa3\x01hello"},
	}
	try := func(c caller, request [3]string) (status int, reads int64) {
		body := &counted{Reader: *strings.NewReader(request[2])}
		r := httptest.NewRequest(request[0], "http://"+host+request[1], body)
		if c.token != "" {
			r.SetBasicAuth(c.name, c.token)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code, body.reads.Load()
	}
	for _, upload := range uploads {
		for who, c := range map[string]caller{"anonymous": anonymous, "puller": puller, "stranger": stranger} {
			if status, reads := try(c, upload); status != 401 && status != 403 || reads > 0 || asked.Load() > 0 {
				t.Errorf("%s %s as %s: %d, the body read %d times, keys asked for %d times; want 401 or 403 and neither", upload[0], upload[1], who, status, reads, asked.Swap(0))
			}
		}
		if status, reads := try(pusher, upload); status/100 != 4 || reads == 0 {
			t.Errorf("%s %s as pusher: %d, the body read %d times; want it read and refused", upload[0], upload[1], status, reads)
		}
		asked.Store(0)
	}

	// What is to be verified says for which repository: no more of it is looked at first.
	broken := `{"default":[{"type":"signedBy"}]}`
	verify := func(reference, more string) [3]string {
		return [3]string{"POST", api.VerifyPath, `{"reference":"` + reference + `"` + more + `}`}
	}
	for name, request := range map[string][3]string{
		"a profile": verify(host+"/prod/app:v1", ""), "a policy": verify(host+"/prod/app:v1", `,"policy":`+broken), "another": verify(host+"/secret/app:v1", `,"policy":`+broken),
	} {
		c := anonymous
		if name == "another" {
			c = pusher
		}
		if status, _ := try(c, request); status != 401 && status != 403 || asked.Load() > 0 {
			t.Errorf("verify with %s: %d, keys asked for %d times; want 401 or 403 and none", name, status, asked.Swap(0))
		}
	}
	if status, _ := try(puller, verify(host+"/prod/app:v1", "")); status != 404 || asked.Load() == 0 {
		t.Errorf("verify by who may: %d, keys asked for %d times; want 404 and some", status, asked.Load())
	}
	r := httptest.NewRequest("POST", "http://"+host+api.VerifyPath, strings.NewReader(verify("UPPER", `,"policy":`+broken)[2]))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code == 200 || strings.Contains(w.Body.String(), "signedBy") || !strings.Contains(w.Body.String(), "UPPER") {
		t.Errorf("of no reference: %d %s; want its policy not read", w.Code, w.Body)
	}
}

// An upload is judged by a policy of when all of it had come, or later: one that comes slowly does not keep what was
// trusted when it began.
func TestPolicyOfWhenItCame(t *testing.T) {
	t.Parallel()
	known := []caller{{name: "pusher", known: true, grants: map[string][]access.Action{host + "/prod/": {access.Pull, access.Push}}}}
	var since []time.Time
	nobody := policy.Trust([]string{host}, signature.Join())
	handler, _, _ := controlled(t, known, func(c *server.Config) {
		c.Door = admission.New(admission.Config{Hosts: []string{host}, Clients: signature.AllClients, Clock: time.Now, Policy: func(at time.Time) *policy.Policy {
			since = append(since, at)
			return nobody
		}})
	})
	private, _, err := signature.Spec{UserID: "somebody", Algorithm: signature.RSA3072}.Generate(time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.NewFileSigner(private, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	content, err := signer.Sign(t.Context(), signature.Claim{Reference: host + "/prod/app:v1", Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	body := &ending{r: bytes.NewReader(content)}
	r := httptest.NewRequest("PUT", "http://"+host+"/sigstore/prod/app@"+strings.Replace(digest, ":", "=", 1)+"/signature-1", body)
	r.SetBasicAuth(known[0].name, known[0].token)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if len(since) != 1 || body.ended.IsZero() || since[0].Before(body.ended) {
		t.Errorf("%d %s; the policy was asked for since %v, want once, since %v or later", w.Code, w.Body, since, body.ended)
	}
}

// An ending body says when it had been read.
type ending struct {
	r     io.Reader
	ended time.Time
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err == io.EOF {
		e.ended = time.Now()
	}
	return n, err
}
