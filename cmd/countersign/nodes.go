package main

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
)

// nodeLookasides are where nodes find signatures that the extension does not serve: of our own hosts
// while it is not advertised, and of the other hosts for which the admission policy admits
// signatures, since those do not advertise it for us.
func (s settings) nodeLookasides(admission *policy.Policy) (all []node.Lookaside) {
	base := s.base()
	if !s.Advertise {
		for _, host := range s.Hosts {
			all = append(all, node.Lookaside{Host: host, URL: base + strings.TrimSuffix(api.SigstorePrefix, "/")})
		}
	}
	var others []string
	for _, scope := range admission.Scopes() {
		host, _, _ := strings.Cut(scope.Name, "/")
		signed := slices.ContainsFunc(scope.Requirements, func(r policy.Requirement) bool { return r.Type == "signedBy" })
		if scope.Transport == "docker" && signed && isHost(host) && !slices.Contains(s.Hosts, host) && !slices.Contains(others, host) {
			others = append(others, host)
		}
	}
	for _, host := range others {
		all = append(all, node.Lookaside{Host: host, URL: base + api.LookasidePrefix + host})
	}
	return all
}

// base is the URL by which nodes reach this server. Who serves others than this machine has TLS,
// here or in front.
func (s settings) base() string {
	if s.URL != "" {
		return s.URL
	}
	name, _, err := net.SplitHostPort(s.Hosts[0])
	if err != nil {
		name = s.Hosts[0]
	}
	ip, err := netip.ParseAddr(name)
	if local := name == "localhost" || err == nil && ip.IsLoopback(); local && s.TLS.Certificate == "" {
		return "http://" + s.Hosts[0]
	}
	return "https://" + s.Hosts[0]
}

// checkURL shows nothing of what it refuses: it may have a password.
func (s settings) checkURL() error {
	u, err := url.Parse(s.URL)
	if s.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.HasSuffix(s.URL, "/")) {
		return errors.New("url is not as https://registry.example.com: with a scheme, without a login, a query, or a slash at its end")
	}
	return nil
}
