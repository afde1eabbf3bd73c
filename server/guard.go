package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guarded refuses what a web page could make a browser send here: a Host that is not ours (a
// name that somebody pointed at this address), and unsafe methods from another origin. It is
// on every listener.
func (s *Server) guarded(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.knownHost(r.Host) {
			writeError(w, r, fmt.Errorf("%w: %q. hint: name it in hosts, or with -host", errHost, r.Host))
			return
		}
		if origins.Check(r) != nil {
			writeError(w, r, errOrigin)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knownHost ignores the port: a proxy in front may have another, and a page can choose its
// port but not what an IP literal or our name means.
func (s *Server) knownHost(host string) bool {
	name := hostname(host)
	if name == "localhost" || s.names[name] {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

// hostname returns the lower-case name of host[:port], without the brackets of an IPv6 address.
func hostname(host string) string {
	if strings.Contains(host, ":") {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}
