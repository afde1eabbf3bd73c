package e2e

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Neither Envoy nor Traefik is a package of Debian, npm or the Go module proxy that could be run here, as
// nginx is by TestNotifications: their files are read as their documentation has it, and asked where
// requests go. Envoy takes the first route that matches; Traefik the longest rule, or the highest priority.

// A destination is where a request goes, and what the answer says of signatures.
type destination struct{ to, advertises string }

const advertising = "X-Registry-Supports-Signatures"

// destinations are what both files are for. What administrates is not reached through them.
var destinations = map[string]destination{
	"/v2/":                                   {"registry", "1"},
	"/v2/ns/app/manifests/v1":                {"registry", ""},
	"/v2/extensions/sigstore/manifests/v1":   {"registry", ""},
	"/v2/ns/app/blobs/uploads/":              {"registry", ""},
	"/v2/_catalog":                           {"registry", ""},
	"/extensions/v2/ns/app/signatures/x":     {"countersign", ""},
	"/extensions/v2/v2/signatures/x":         {"countersign", ""},
	"/sigstore/ns/app@sha256=00/signature-1": {"countersign", ""},
	"/":                                      {},
	"/v2":                                    {},
	"/extensions":                            {},
	"/api/v1/withdrawals":                    {},
	"/metrics":                               {},
	"/lookaside/other.example.com/x":         {},
}

// TestEnvoyRoutes asks deploy/envoy.yaml.
func TestEnvoyRoutes(t *testing.T) {
	t.Parallel()
	var host struct {
		Name    string
		Domains []string
		Routes  []struct {
			Match struct{ Prefix, Path string }
			Route struct{ Cluster, Timeout string }
			Add   []struct {
				Header struct{ Key, Value string }
				Action string `yaml:"append_action"`
			} `yaml:"response_headers_to_add"`
		}
	}
	strictly(t, "../deploy/envoy.yaml", &host)
	for path, want := range destinations {
		var got destination
		for _, r := range host.Routes {
			if (r.Match.Path == "") == (r.Match.Prefix == "") {
				t.Fatalf("a route is for one of path and prefix: %+v", r)
			}
			if path != r.Match.Path && (r.Match.Prefix == "" || !strings.HasPrefix(path, r.Match.Prefix)) {
				continue
			}
			got.to = r.Route.Cluster
			for _, add := range r.Add {
				if add.Header.Key == advertising && add.Action == "OVERWRITE_IF_EXISTS_OR_ADD" { // clients want one, and exactly 1
					got.advertises = add.Header.Value
				}
			}
			if strings.HasPrefix(path, "/v2/n") && r.Route.Timeout != "0s" {
				t.Errorf("%s has 15 seconds, Envoy's default: layers take longer", path)
			}
			break
		}
		if got != want {
			t.Errorf("%s goes to %+v, want %+v", path, got, want)
		}
	}
}

// TestTraefikRoutes asks deploy/traefik.yaml.
func TestTraefikRoutes(t *testing.T) {
	t.Parallel()
	type router struct {
		Rule, Service string
		Priority      int
		Middlewares   []string
	}
	var file struct {
		HTTP struct {
			Routers     map[string]router
			Middlewares map[string]struct {
				Headers struct {
					Response map[string]string `yaml:"customResponseHeaders"`
				}
			}
			Services map[string]struct {
				LoadBalancer struct{ Servers []struct{ URL string } } `yaml:"loadBalancer"`
			}
		}
	}
	strictly(t, "../deploy/traefik.yaml", &file)
	var routers []router
	for name, r := range file.HTTP.Routers {
		if r.Priority == 0 {
			r.Priority = len(r.Rule)
		}
		if service, ok := file.HTTP.Services[r.Service]; !ok || len(service.LoadBalancer.Servers) != 1 {
			t.Errorf("router %s goes to %q, which is no service with one server", name, r.Service)
		}
		routers = append(routers, r)
	}
	slices.SortFunc(routers, func(a, b router) int { return b.Priority - a.Priority })
	for path, want := range destinations {
		var got destination
		for _, r := range routers {
			if !ruled(t, r.Rule, path) {
				continue
			}
			got.to = r.Service
			for _, name := range r.Middlewares {
				m, ok := file.HTTP.Middlewares[name]
				if !ok {
					t.Errorf("there is no middleware %q", name)
				}
				got.advertises = m.Headers.Response[advertising]
			}
			break
		}
		if got != want {
			t.Errorf("%s goes to %+v, want %+v", path, got, want)
		}
	}
}

// ruled says whether a path matches a rule of the form Host(`…`) && A, where A is a matcher of paths, or
// several with || between them in parentheses.
func ruled(t *testing.T, rule, path string) bool {
	t.Helper()
	rest, ok := strings.CutPrefix(rule, "Host(`registry.example.com`) && ")
	if !ok || strings.Contains(rest, "&&") || strings.Contains(rest, "||") != strings.HasPrefix(rest, "(") {
		t.Fatalf("rule %q is of another form than this test reads", rule)
	}
	if strings.HasPrefix(rest, "(") {
		rest = strings.TrimSuffix(strings.TrimPrefix(rest, "("), ")")
	}
	for matcher := range strings.SplitSeq(rest, " || ") {
		kind, value, _ := strings.Cut(strings.TrimSuffix(matcher, "`)"), "(`")
		switch kind {
		case "Path":
			ok = path == value
		case "PathPrefix":
			ok = strings.HasPrefix(path, value)
		default:
			t.Fatalf("matcher %q is of another form than this test reads", matcher)
		}
		if ok {
			return true
		}
	}
	return false
}

// strictly reads a file of YAML that has nothing but what is asked for.
func strictly(t *testing.T, file string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(read(t, file)))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
