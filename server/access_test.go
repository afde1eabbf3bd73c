package server_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// other is a host whose signatures are kept here, and whose images are not.
const other = "other.example.com"

// A caller is somebody who comes, and the model of what they may: actions by where.
type caller struct {
	name   string
	token  string                     // "" is anonymous
	known  bool                       // the token is one that there is
	grants map[string][]access.Action // by prefix of <host>/<repository>; "" is everything
}

// may is what the grants say, told in another way than access does.
func (c caller) may(a access.Action, where string) bool {
	for prefix, actions := range c.grants {
		if strings.HasPrefix(where, prefix) && where != prefix && slices.Contains(actions, a) {
			return true
		}
	}
	return false
}

// over is may for what belongs to no single repository.
func (c caller) over(a access.Action) bool {
	if a == access.Pull {
		return c.known
	}
	return slices.Contains(c.grants[""], a) || slices.Contains(c.grants[host+"/"], a)
}

// callers are one for each action and each reach of it, and those that come in another way.
func callers() []caller {
	all := []caller{
		{name: "anonymous"},
		{name: "stranger", token: "cst_a-token-that-is-none-of-them"},
		{name: "expired", token: "made by settings"},
		{name: "nobody", known: true},
		{name: "everything", known: true, grants: map[string][]access.Action{"": access.Actions()}},
		{name: "elsewhere", known: true, grants: map[string][]access.Action{host + "/dev/": access.Actions()}},
		{name: "otherwise", known: true, grants: map[string][]access.Action{other + "/": access.Actions()}},
		{name: "pusher", known: true, grants: map[string][]access.Action{host + "/prod/": {access.Pull, access.Push}}},
	}
	for _, a := range access.Actions() {
		for name, prefix := range map[string]string{"prod": host + "/prod/", "host": host + "/", "all": ""} {
			all = append(all, caller{name: string(a) + "-" + name, known: true, grants: map[string][]access.Action{prefix: {a}}})
		}
	}
	return all
}

// settingsOf are what the callers' grants are in settings; it fills in their tokens.
func settingsOf(t *testing.T, all []caller) access.Settings {
	t.Helper()
	s := access.Settings{Anonymous: "none"}
	var file strings.Builder
	for i, c := range all {
		if c.token != "" && c.name != "expired" || c.name == "anonymous" {
			continue
		}
		expires := time.Time{}
		if c.name == "expired" {
			expires = time.Now().Add(-time.Hour)
		}
		token, line, err := access.NewToken(c.name, expires)
		if err != nil {
			t.Fatal(err)
		}
		all[i].token = token
		fmt.Fprintln(&file, line)
		for prefix, actions := range c.grants {
			s.Grants = append(s.Grants, access.Grant{Who: []string{"token:" + c.name}, Repositories: []string{prefix + "**"}, Actions: actions})
		}
	}
	s.Tokens = filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(s.Tokens, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// controlled returns a server that is asked by these callers, and its store.
func controlled(t *testing.T, all []caller, change func(*server.Config)) (http.Handler, *server.Server, *disk.Store) {
	t.Helper()
	own, err := access.Open(settingsOf(t, all), access.Options{Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	everything := policy.Trust([]string{host}, signature.Join())
	srv, s := serverWith(t, func(c *server.Config) {
		c.Access, c.Own = own, own
		c.Profiles = map[string]func() *policy.Policy{"default": func() *policy.Policy { return everything }}
		change(c)
	})
	return srv.Handler(), srv, s
}

// A sent is one request of a case.
type sent struct{ path, body string }

// rows says how each route is asked: for a method, in a repository of a host, or over no single one
// where the repository is "". A route that has none here fails the test of access, and so does one
// of its methods that no request comes of.
var rows = map[string]func(method, host, repository string) []sent{
	"/v2":          ping,
	"/v2/":         ping,
	"/v2/_catalog": func(_, h, repository string) []sent { return over(h, repository, "/v2/_catalog", "") },
	"/v2/*": func(method, h, repository string) []sent {
		if h != host {
			return nil
		}
		base := "/v2/" + repository
		switch method {
		case "POST":
			return []sent{{base + "/blobs/uploads/", ""}, {base + "/blobs/uploads/?digest=" + digest, ""}}
		case "PATCH":
			return []sent{{base + "/blobs/uploads/6f1a0f5e-0c4a-4a51-9f5b-0a7c1e2b3c4d", "x"}}
		case "PUT":
			return []sent{{base + "/manifests/v1", "{}"}, {base + "/manifests/" + digest, "{}"}, {base + "/blobs/uploads/6f1a0f5e-0c4a-4a51-9f5b-0a7c1e2b3c4d?digest=" + digest, ""}}
		case "DELETE":
			return []sent{{base + "/manifests/v1", ""}, {base + "/manifests/" + digest, ""}, {base + "/blobs/" + digest, ""}}
		}
		return []sent{{base + "/manifests/v1", ""}, {base + "/manifests/" + digest, ""}, {base + "/blobs/" + digest, ""}, {base + "/tags/list", ""}, {base + "/referrers/" + digest, ""}}
	},
	"/extensions/v2/*": func(_, h, repository string) []sent {
		if h != host {
			return nil
		}
		return []sent{{api.ExtensionPrefix + repository + "/signatures/" + digest, "{}"}}
	},
	"/sigstore/*": func(method, h, repository string) []sent {
		if h != host {
			return nil
		}
		return lookasides(method, api.SigstorePrefix+repository)
	},
	"/lookaside/*": func(method, h, repository string) []sent {
		return lookasides(method, api.LookasidePrefix+h+"/"+repository)
	},
	api.VerifyPath: func(_, h, repository string) []sent {
		return []sent{{api.VerifyPath, `{"reference":"` + h + "/" + repository + "@" + digest + `"}`}}
	},
	api.KeysPath:        func(_, h, repository string) []sent { return over(h, repository, api.KeysPath, "") },
	api.KeysPath + "/*": func(_, h, repository string) []sent { return over(h, repository, api.KeysPath+"/00", "") },
	api.NodeConfigPath:  func(_, h, repository string) []sent { return over(h, repository, api.NodeConfigPath, "") },
	api.SignaturesPath:  listings(api.SignaturesPath),
	api.WithdrawalsPath: func(method, h, repository string) []sent {
		if method != "POST" {
			return listings(api.WithdrawalsPath)(method, h, repository)
		}
		body, _ := json.Marshal(api.WithdrawRequest{Host: h, Repository: repository, Digest: digest, Scope: "signature", Name: "none", Reason: "test"})
		return []sent{{api.WithdrawalsPath, string(body)}}
	},
	api.WithdrawalsPath + "/*": func(_, h, repository string) []sent {
		image, err := api.NewImage(h, repository, digest)
		if err != nil {
			return nil
		}
		return []sent{{api.WithdrawalsPath + "/" + api.WithdrawalID(image, "ABCDEFGHJKLM"), ""}}
	},
	api.AuditPath:  func(_, h, repository string) []sent { return over(h, repository, api.AuditPath, "") },
	api.ImportPath: func(_, h, repository string) []sent { return over(h, repository, api.ImportPath, "{") },
	api.ExportPath: func(_, h, repository string) []sent { return over(h, repository, api.ExportPath, "") },
	// Access is not asked: a secret that is none of its credentials decides (TestNotifications).
	api.NotificationsPath: func(_, h, repository string) []sent { return over(h, repository, api.NotificationsPath, "{}") },
	api.ResignPath: func(_, h, repository string) []sent {
		return over(h, repository, api.ResignPath, `{"from":"old","to":"new"}`)
	},
	api.CalendarPath: func(_, h, repository string) []sent { return over(h, repository, api.CalendarPath, "") },
	api.SignPath: func(_, h, repository string) []sent {
		if h != host {
			return nil
		}
		reference := `{"reference":"` + h + "/" + repository
		return []sent{{api.SignPath, reference + ":v1" + `"}`}, {api.SignPath, reference + "@" + digest + `"}`}}
	},
	api.TagsPath:         ofRepository(api.TagsPath),
	api.CoveragePath:     ofRepository(api.CoveragePath),
	api.RepositoriesPath: func(_, h, repository string) []sent { return over(h, repository, api.RepositoriesPath, "") },
	api.QueuePath:        func(_, h, repository string) []sent { return over(h, repository, api.QueuePath, "") },
	api.QueuePath + "/*": func(method, h, repository string) []sent {
		if method == "POST" {
			return over(h, repository, api.QueuePath+"/bm9uZQ"+api.RetrySegment, "")
		}
		return over(h, repository, api.QueuePath+"/bm9uZQ", "")
	},
}

func ofRepository(path string) func(_, h, repository string) []sent {
	return func(_, h, repository string) []sent {
		if h != host || repository == "" {
			return nil
		}
		return []sent{{path + "?repository=" + repository, ""}, {path + "?repository=" + h + "/" + repository, ""}}
	}
}

func ping(_, h, repository string) []sent { return over(h, repository, "/v2/", "") }

func over(h, repository, path, body string) []sent {
	if h != host || repository != "" {
		return nil
	}
	return []sent{{path, body}}
}

func lookasides(method, base string) []sent {
	base += "@" + strings.Replace(digest, ":", "=", 1)
	if method == "POST" {
		return []sent{{base, "x"}}
	}
	return []sent{{base + "/signature-1", "x"}}
}

func listings(path string) func(_, h, repository string) []sent {
	return func(_, h, repository string) []sent {
		if repository == "" {
			return over(h, repository, path, "")
		}
		sents := []sent{{path + "?host=" + h + "&repository=" + repository, ""}}
		if h == host {
			sents = append(sents, sent{path + "?repository=" + repository, ""})
		}
		return sents
	}
}

// A kase is one request by one caller, and whether it may.
type kase struct {
	caller caller
	method string
	sent   sent
	host   string // of what is asked about
	allow  bool
	hidden bool // a refusal is a 404
	public bool // nobody is asked who they are
}

// TestWhoMayDoWhat makes the product of callers, routes, methods, protocols and repositories from
// the table of routes, and compares every answer with the model above.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	all := callers()
	handler, srv, s := controlled(t, all, func(*server.Config) {})
	repositories := []string{"prod/app", "prod/team/app", "prod", "production/app", "dev/app"}
	for _, h := range []string{host, other} {
		for _, repository := range repositories {
			keep(t, s, h, repository)
		}
	}
	asked := 0
	for _, route := range srv.Routes() {
		row, ok := rows[route.Path]
		if !ok {
			t.Errorf("nothing here asks %s: give it a row", route.Path)
			continue
		}
		for _, need := range route.Needs {
			for _, method := range need.Methods {
				cases := casesOf(all, route, row, need, method, repositories)
				if len(cases) == 0 {
					t.Errorf("the row of %s has no request for %s in %q or over %q", route.Path, method, need.In, need.Over)
				}
				for _, c := range cases {
					asked++
					c.try(t, handler, asked)
				}
			}
		}
	}
	t.Logf("%d requests", asked)
}

func casesOf(all []caller, route server.Route, row func(method, host, repository string) []sent, need server.Need, method string, repositories []string) (cases []kase) {
	read := method == "GET" || method == "HEAD"
	for _, c := range all {
		if need.Over != "" {
			for _, s := range row(method, host, "") {
				cases = append(cases, kase{caller: c, method: method, sent: s, host: host, allow: need.Over == server.Anybody || c.over(access.Action(need.Over))})
			}
		}
		if need.In == "" {
			continue
		}
		for _, h := range []string{host, other} {
			for _, repository := range repositories {
				for _, s := range row(method, h, repository) {
					public := need.In == server.Anybody || h == other && need.In == string(access.Pull)
					cases = append(cases, kase{
						caller: c, method: method, sent: s, host: h, public: public,
						allow: public || c.may(access.Action(need.In), h+"/"+repository), hidden: read && route.Name == "lookaside",
					})
				}
			}
		}
	}
	return cases
}

// try asks, from an address of its own: failed logins are counted.
func (c kase) try(t *testing.T, handler http.Handler, n int) {
	t.Helper()
	r := httptest.NewRequest(c.method, "http://"+host+c.sent.path, strings.NewReader(c.sent.body))
	r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&255, n>>8&255, n&255)
	switch {
	case c.caller.token == "":
	case n%2 == 0:
		r.Header.Set("Authorization", "Bearer "+c.caller.token)
	default:
		r.SetBasicAuth("whoever", c.caller.token)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	what := fmt.Sprintf("%s: %s %s: %d %.200s", c.caller.name, c.method, c.sent.path, w.Code, w.Body)
	challenged := strings.HasPrefix(w.Header().Get("Www-Authenticate"), `Basic realm="`)
	switch {
	case c.allow:
		if w.Code == 401 || w.Code == 403 || w.Code >= 500 || w.Code == 404 && c.hidden {
			t.Errorf("%s; it is allowed", what)
		}
	case c.hidden:
		if w.Code != 404 || w.Header().Get("Www-Authenticate") != "" {
			t.Errorf("%s; want 404 and no challenge", what)
		}
	case !c.caller.known:
		if w.Code != 401 || !challenged {
			t.Errorf("%s; want 401 and a challenge, has %q", what, w.Header().Get("Www-Authenticate"))
		}
	case w.Code != 403 || challenged:
		t.Errorf("%s; want 403", what)
	}
	if !c.allow && strings.Contains(w.Body.String(), "content of") {
		t.Errorf("%s shows what it refuses", what)
	}
	if advertised := w.Header().Get("X-Registry-Supports-Signatures"); (advertised == "1") != (c.sent.path == "/v2/") {
		t.Errorf("%s has X-Registry-Supports-Signatures %q", what, advertised)
	}
}

// keep stores a signature that readers can tell.
func keep(t *testing.T, s store.Store, h, repository string) {
	t.Helper()
	image, err := api.NewImage(h, repository, digest)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("content of " + h + "/" + repository)
	if _, err := s.Do(t.Context(), store.Change{Image: image, Add: []store.Signature{{
		Name: api.Name(image.Digest, content), Content: content, Identity: string(content), Fingerprint: strings.Repeat("A", 40),
		Reference: h + "/" + repository + ":v1", Signed: time.Now(), Added: time.Now(),
	}}, Record: store.Record{Time: time.Now(), Action: store.Admitted, Subject: "test", Image: image}}); err != nil {
		t.Fatal(err)
	}
}
