package bearer

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull"`: "https://auth.example/token reg",
		`bearer Realm = "https://auth.example/token" , SERVICE=reg`:                         "https://auth.example/token reg",
		`Basic realm="x", Bearer realm="https://auth.example/token"`:                        "https://auth.example/token ",
		`Bearer realm="https://auth.example/token?a=b",service="a \"b\", c=d"`:              `https://auth.example/token?a=b a "b", c=d`,
		`Negotiate abc==, Bearer realm="https://auth.example/"`:                             "https://auth.example/ ",
		`Bearer realm="http://[::1]:5001/token#x",error="invalid_token"`:                    "http://[::1]:5001/token ",
		`Bearer realm="https://one.example/",realm="https://two.example/"`:                  "https://one.example/ ",
		`Bearer realm="https://user:pass@auth.example/"`:                                    "",
		`Bearer realm="file:///etc/passwd"`:                                                 "",
		`Bearer realm="/token"`:                                                             "",
		`Bearer service="reg"`:                                                              "",
		`Basic realm="https://auth.example/"`:                                               "",
		`realm="https://auth.example/"`:                                                     "",
		``:                                                                                  "",
		`=,="`:                                                                              "",
	} {
		c, ok := Parse([]string{`Digest qop="auth"`, value})
		if !ok {
			c.Realm = &url.URL{}
		}
		if got := c.Realm.String() + " " + c.Service; ok && got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", value, got, ok, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull"`)
	f.Add(`Basic realm="a\"b", Bearer realm=https://h/,,=`)
	f.Fuzz(func(t *testing.T, value string) {
		c, ok := Parse([]string{value})
		if ok && (c.Realm.Hostname() == "" || c.Realm.User != nil) {
			t.Errorf("%q: realm %v", value, c.Realm)
		}
	})
}

// A registry behind which every request is counted.
func serve(t *testing.T, handler http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const basic = "Basic YWxpY2U6c2VjcmV0"

func do(t *testing.T, c Client, authorization string) (Answer, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://unused.example/v2/a/manifests/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Transport = http.DefaultTransport
	answer, err := c.Do(r, authorization, "repository:a:pull")
	if err == nil {
		t.Cleanup(func() { Discard(answer.Response) })
	}
	return answer, err
}

// Only Basic is exchanged, only for a Bearer registry, and only at a realm that is trusted.
func TestDo(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	realm := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Authorization") + " " + r.URL.RawQuery
		switch r.URL.Path {
		case "/refuses":
			w.WriteHeader(http.StatusUnauthorized)
		case "/busy":
			w.WriteHeader(http.StatusTooManyRequests)
		case "/sends":
			http.Redirect(w, r, "/token", http.StatusFound)
		case "/nothing":
			fmt.Fprint(w, `{"token":"","expires_in":60}`)
		case "/smuggles":
			fmt.Fprint(w, `{"token":"good\r\nX-Evil: 1"}`)
		case "/access":
			fmt.Fprint(w, `{"access_token":"good"}`)
		default:
			fmt.Fprint(w, `{"token":"good"}`)
		}
	})
	registry := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer good" {
			return
		}
		where := strings.TrimPrefix(r.Host, "at-")
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/%s",service="reg"`, realm, where))
		w.WriteHeader(http.StatusUnauthorized)
	})
	named := []string{realm.Host}
	for name, test := range map[string]struct {
		authorization, at string
		realms            []string
		status            int // 0: an error
		asked             string
		problem           error
	}{
		"named":         {basic, "token", named, 200, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
		"access_token":  {basic, "access", named, 200, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
		"not named":     {basic, "token", []string{"auth.example"}, 401, "", ErrRealm},
		"another port":  {basic, "token", []string{realm.Hostname()}, 401, "", ErrRealm},
		"a bad token":   {"Bearer bad", "token", named, 401, "", nil},
		"none":          {"", "token", named, 401, "", nil},
		"refused":       {basic, "refuses", named, 401, basic + " scope=repository%3Aa%3Apull&service=reg", ErrRefused},
		"busy":          {basic, "busy", named, 0, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
		"redirected":    {basic, "sends", named, 0, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
		"without token": {basic, "nothing", named, 0, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
		"smuggled":      {basic, "smuggles", named, 0, basic + " scope=repository%3Aa%3Apull&service=reg", nil},
	} {
		answer, err := do(t, Client{Registry: registry, Host: "at-" + test.at, Realms: test.realms}, test.authorization)
		got := ""
		select {
		case got = <-asked:
		default:
		}
		if (err != nil) != (test.status == 0) || err == nil && answer.StatusCode != test.status || got != test.asked || !errors.Is(answer.Problem, test.problem) {
			t.Errorf("%s: got %+v, %v, the realm was asked %q", name, answer, err, got)
		}
		if err == nil && answer.Exchanged != (test.status == 200) {
			t.Errorf("%s: Exchanged is %v", name, answer.Exchanged)
		}
	}
}

// A realm on the registry's own host needs no setting; a password that came over TLS never leaves
// in the clear.
func TestTrusts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		registry, host, realm string
		realms                []string
		want                  bool
	}{
		{"https://r.example", "", "https://r.example/token", nil, true},
		{"https://r.example", "", "https://R.example:443/token", nil, true},
		{"https://r.example", "", "https://r.example:8443/token", nil, false},
		{"https://r.example", "", "http://r.example/token", nil, false},
		{"https://r.example", "", "http://r.example:443/token", nil, false},
		{"https://r.example", "", "https://evil.example/token", nil, false},
		{"https://r.example", "", "https://r.example.evil.example/token", nil, false},
		{"https://10.0.0.1", "r.example", "https://r.example/token", nil, true},
		{"http://10.0.0.1:5000", "", "http://10.0.0.1:5000/token", nil, true},
		{"http://10.0.0.1:5000", "", "https://auth.example/token", []string{"auth.example"}, true},
		{"http://10.0.0.1:5000", "", "http://auth.example/token", []string{"auth.example"}, true},
		{"https://r.example", "", "http://auth.example/token", []string{"auth.example"}, false},
		{"https://r.example", "", "https://auth.example:8443/token", []string{"auth.example"}, false},
		{"https://r.example", "", "https://auth.example:8443/token", []string{"auth.example:8443"}, true},
	} {
		registry, _ := url.Parse(test.registry)
		realm, _ := url.Parse(test.realm)
		c := Client{Registry: registry, Host: test.host, Realms: test.realms}
		if got := c.trusts(realm); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}
