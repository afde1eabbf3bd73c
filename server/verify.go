package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
)

// serveVerify answers what a node policy says of an image, and why. Two at a time: one costs a
// verification for each signature of each instance.
func (s *Server) serveVerify(w http.ResponseWriter, r *http.Request) {
	var request api.VerifyRequest
	if err := decode(w, r, api.MaxVerifyBody, &request); err != nil {
		writeError(w, r, err)
		return
	}
	named, err := signature.ParseReference(request.Reference)
	if err != nil {
		writeError(w, r, fmt.Errorf("%w: reference %.300q: %v", errRequest, request.Reference, err))
		return
	}
	if err := s.may(r, access.Pull, s.kept(reference.Domain(named)), reference.Path(named)); err != nil {
		writeError(w, r, err)
		return
	}
	select {
	case s.verifying <- struct{}{}:
		defer func() { <-s.verifying }()
	case <-r.Context().Done():
		writeError(w, r, r.Context().Err())
		return
	}
	verdict, err := s.verify(asCaller(r), request, reference.TagNameOnly(named))
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, verdict)
}

func (s *Server) verify(ctx context.Context, request api.VerifyRequest, named reference.Named) (api.Verdict, error) {
	p, profile, err := s.policyOf(request)
	if err != nil {
		return api.Verdict{}, err
	}
	manifests, err := s.manifestsOf(ctx, named)
	if err != nil {
		return api.Verdict{}, err
	}
	v := api.Verdict{Reference: named.String(), Profile: profile}
	chosen, rejected, reasons := 0, 0, 0
	for _, m := range manifests {
		m, err := s.judge(ctx, p, named, m)
		if err != nil {
			return api.Verdict{}, err
		}
		for _, r := range m.Requirements {
			reasons += 1 + len(r.Signatures)
		}
		if reasons > maxReasons {
			return api.Verdict{}, fmt.Errorf("%w: the policy has so many requirements for %s that more than %d reasons would be said; ask about one instance, by digest", errRequest, named, maxReasons)
		}
		v.Manifests = append(v.Manifests, m)
		if !m.List && m.Platform != attestation {
			chosen++
			if !m.Accepted {
				rejected++
			}
		}
	}
	// Of a list that no node can choose anything of, the list is all there is to say something of.
	v.Accepted = rejected == 0 && (chosen > 0 || v.Manifests[0].Accepted)
	v.Advice = advise(v, named)
	return v, nil
}

// maxReasons bounds what one verdict says: of each requirement of each manifest, and each signature.
const maxReasons = 100_000

// policyOf returns the profile that is named, the only one, or the caller's own policy.
func (s *Server) policyOf(request api.VerifyRequest) (*policy.Policy, string, error) {
	if len(request.Policy) > 0 {
		if request.Profile != "" {
			return nil, "", fmt.Errorf("%w: profile and policy are two: leave one out", errRequest)
		}
		p, err := policy.Parse(request.Policy)
		if err == nil {
			p, err = p.Load(func(string) ([]byte, error) { return nil, errors.New("a policy that is sent has its keys as keyData") })
		}
		if err != nil {
			return nil, "", fmt.Errorf("%w: %v", errRequest, err)
		}
		return p, "", nil
	}
	names := slices.Sorted(maps.Keys(s.c.Profiles))
	name := request.Profile
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	current, ok := s.c.Profiles[name]
	if !ok {
		return nil, "", fmt.Errorf("%w: profile %q is none of %s", errRequest, name, strings.Join(names, ", "))
	}
	return current(), name, nil
}

// attestation is the platform of what buildkit puts beside images; no node chooses it.
const attestation = "unknown/unknown"

// manifestsOf returns what a reference stands for: one manifest, or a list and its instances. Of
// another registry's images only digests can be asked for, and nothing is known of what they are.
func (s *Server) manifestsOf(ctx context.Context, named reference.Named) ([]api.ManifestVerdict, error) {
	digested, isDigest := named.(reference.Digested)
	if s.kept(reference.Domain(named)) != s.c.Hosts[0] {
		if !isDigest {
			return nil, fmt.Errorf("%w: %s is not this registry's (it is %s): name it by digest", errRequest, named, strings.Join(s.c.Hosts, ", "))
		}
		return []api.ManifestVerdict{{Digest: digested.Digest()}}, nil
	}
	what := ""
	if isDigest {
		what = digested.Digest().String()
	} else if tagged, ok := named.(reference.Tagged); ok {
		what = tagged.Tag()
	}
	m, err := s.c.Registry.Manifest(ctx, reference.Path(named), what)
	if errors.Is(err, registry.ErrUnknown) && isDigest {
		return []api.ManifestVerdict{{Digest: digested.Digest()}}, nil
	}
	if err != nil {
		return nil, err
	}
	instances, err := m.Instances()
	if err != nil {
		return nil, err
	}
	all := []api.ManifestVerdict{{Digest: m.Digest, List: len(instances) > 0}}
	platforms := platformsOf(m)
	for _, d := range instances {
		all = append(all, api.ManifestVerdict{Digest: d, Platform: platforms[d]})
	}
	return all, nil
}

// kept is the host that images of a name are kept under. Another name of this machine with our
// port is this registry, too: nodes that pull by it get our images, and judge them by that name.
func (s *Server) kept(domain string) string {
	for _, host := range s.c.Hosts {
		if local(host) && local(domain) && port(host) == port(domain) {
			return s.c.Hosts[0]
		}
	}
	return s.c.Door.Host(domain)
}

func local(host string) bool {
	name := hostname(host)
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}

func port(host string) string {
	_, port, _ := net.SplitHostPort(host) // none is as good as another none
	return port
}

// platformsOf reads what a list says its instances are for; it is for people.
func platformsOf(m registry.Manifest) map[digest.Digest]string {
	var list struct {
		Manifests []struct {
			Digest   digest.Digest
			Platform struct{ OS, Architecture, Variant string }
		}
	}
	platforms := map[digest.Digest]string{}
	if json.Unmarshal(m.Content, &list) != nil {
		return platforms
	}
	for _, entry := range list.Manifests {
		p := entry.Platform
		if p.OS != "" {
			platforms[entry.Digest] = strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
		}
	}
	return platforms
}

// judge evaluates one manifest with the signatures the server has of it.
func (s *Server) judge(ctx context.Context, p *policy.Policy, named reference.Named, m api.ManifestVerdict) (api.ManifestVerdict, error) {
	image, err := api.NewImage(s.kept(reference.Domain(named)), reference.Path(named), m.Digest.String())
	if err != nil {
		return m, err
	}
	if s.c.Lookasides != nil {
		s.c.Lookasides.Import(ctx, image)
	}
	set, err := s.c.Store.Get(ctx, image)
	if err != nil {
		return m, err
	}
	contents := make([]signature.Untrusted, len(set.Signatures))
	m.Signatures = make([]api.SignatureSeen, len(set.Signatures))
	for i, sig := range set.Signatures {
		contents[i] = signature.Untrusted(sig.Content)
		m.Signatures[i] = api.SignatureSeen{
			Name: sig.Name, Fingerprint: sig.Fingerprint, UserID: sig.UserID, Reference: sig.Reference, Signed: sig.Signed, Own: sig.Own,
		}
	}
	d := p.Evaluate(policy.Image{Transport: "docker", Reference: named, Digest: m.Digest}, contents, s.c.Clock())
	m.Accepted, m.Scope = d.Accepted, d.Scope
	for _, r := range d.Requirements {
		m.Requirements = append(m.Requirements, api.RequirementVerdict(r))
	}
	return m, ctx.Err()
}
