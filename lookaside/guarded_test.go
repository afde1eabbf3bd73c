package lookaside

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// guarded is a lookaside on a private address that answers so.
func guarded(t *testing.T, answer http.HandlerFunc) (*Remote, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	r, err := NewGuarded(s.URL+"/sigs", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.CloseIdleConnections)
	return r, s
}

func TestGuardedIsBounded(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	r, _ := guarded(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("%s: %s was sent", name, v)
			}
		}
		fmt.Fprint(w, "x")
	})
	found, err := r.Fetch(t.Context(), image())
	if !errors.Is(err, ErrEndless) || len(found) != MaxGuarded || asked.Load() != MaxGuarded {
		t.Errorf("an endless list: got %d files with %d requests, %v, want %d", len(found), asked.Load(), err, MaxGuarded)
	}
	slow, _ := guarded(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/signature-3") {
			<-r.Context().Done() // until the client gives up
			return
		}
		fmt.Fprint(w, "x")
	})
	slow.time = 200 * time.Millisecond
	if found, err := slow.Fetch(t.Context(), image()); !errors.Is(err, ErrAway) || len(found) != 2 {
		t.Errorf("a slow one: got %d files, %v, want the 2 before and ErrAway", len(found), err)
	}
	if slow, _ := guarded(t, nil); slow.time != 5*time.Second || slow.client.Timeout != 5*time.Second {
		t.Errorf("an image may take %v, a request %v; want 5 s", slow.time, slow.client.Timeout)
	}
}

func TestGuardedRedirects(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect reached %s on another port", r.URL)
	}))
	t.Cleanup(elsewhere.Close)
	for name, test := range map[string]struct {
		to   func(own string) string
		want error
	}{
		"same host":       {func(own string) string { return own + "/there" }, nil},
		"relative":        {func(string) string { return "/there" }, nil},
		"another port":    {func(string) string { return elsewhere.URL + "/there" }, ErrElsewhere},
		"another name":    {func(own string) string { return strings.Replace(own, "127.0.0.1", "localhost", 1) + "/there" }, ErrElsewhere},
		"another host":    {func(string) string { return "http://sigs.example/there" }, ErrElsewhere},
		"another scheme":  {func(own string) string { return strings.Replace(own, "http:", "https:", 1) }, ErrElsewhere},
		"with a password": {func(own string) string { return strings.Replace(own, "//", "//u:p@", 1) + "/there" }, ErrElsewhere},
		"in circles":      {func(own string) string { return own + "/sigs" }, ErrElsewhere},
	} {
		var own string
		r, s := guarded(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/there" {
				http.Redirect(w, r, test.to(own), http.StatusFound)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		})
		own = s.URL
		if _, err := r.Fetch(t.Context(), image()); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

// What is connected to is looked at, not what a name stood for before: so no name may turn private.
func TestGuardedAddresses(t *testing.T) {
	t.Parallel()
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked", r.Host) }))
	t.Cleanup(inside.Close)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(inside.URL, "http://"))
	for _, host := range []string{"127.0.0.1", "localhost", "127.1.2.3", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"} {
		r, err := NewGuarded("http://"+host+":"+port, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Fetch(t.Context(), image()); !errors.Is(err, ErrElsewhere) && host != "[::1]" || err == nil {
			t.Errorf("%s: got %v, want ErrElsewhere", host, err)
		}
	}
	for address, public := range map[string]bool{
		"8.8.8.8": true, "[2606:4700::1111]": true, "203.0.113.1": true,
		"10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.100.100.200": false, "0.1.2.3": false,
		"255.255.255.255": false, "224.0.0.1": false, "198.18.0.1": false, "192.0.0.192": false, "[fe80::1]": false, "[fe80::1%25eth0]": false, "[fd00:ec2::254]": false,
		"[::ffff:10.0.0.1]": false, "[64:ff9b::a9fe:a9fe]": false, "[2002:a9fe:a9fe::]": false, "[::a9fe:a9fe]": false, "[ff02::1]": false, "[fec0::1]": false, "[2001:0:a9fe:a9fe::]": false,
	} {
		if err := checkPublic(address + ":443"); (err == nil) != public {
			t.Errorf("%s: got %v, want public: %v", address, err, public)
		}
	}
	for _, base := range []string{"http://user@sigs.example", "http://user:secret@sigs.example", "file:///sigs", "sigs.example"} {
		if _, err := NewGuarded(base, false); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want an error without the password", base, err)
		}
	}
}

// No proxy of the environment is asked: it would connect to what the guard refuses.
func TestGuardedAsksNoProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("the proxy was asked for %s", r.URL) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	r, err := NewGuarded("http://10.255.255.1/sigs", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := r.Fetch(ctx, image()); !errors.Is(err, ErrElsewhere) {
		t.Errorf("got %v, want ErrElsewhere", err)
	}
}
