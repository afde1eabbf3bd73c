package access

import (
	"fmt"
	"slices"
	"strings"
)

// A grant is a Grant that was read: patterns of hosts are of the first of ours.
type grant struct {
	anonymous    bool
	who          []pattern
	repositories []pattern
	actions      []Action
}

func parseGrants(s Settings, hosts []string) ([]grant, error) {
	var grants []grant
	if s.Anonymous == string(Pull) {
		everything, err := parsePattern("**", "/")
		if err != nil {
			return nil, err
		}
		grants = append(grants, grant{anonymous: true, repositories: []pattern{everything}, actions: []Action{Pull}})
	}
	for i, g := range s.Grants {
		parsed, err := parseGrant(s, g, hosts)
		if err != nil {
			return nil, fmt.Errorf("access: grants[%d]: %w", i, err)
		}
		grants = append(grants, parsed)
	}
	return grants, nil
}

func parseGrant(s Settings, g Grant, hosts []string) (grant, error) {
	if len(g.Who) == 0 || len(g.Repositories) == 0 || len(g.Actions) == 0 {
		return grant{}, fmt.Errorf("it gives nothing\nhint: list who, repositories and actions")
	}
	parsed := grant{actions: g.Actions}
	for _, a := range g.Actions {
		if !slices.Contains(Actions(), a) {
			return grant{}, fmt.Errorf("no action %q\nhint: %v", a, Actions())
		}
	}
	for _, who := range g.Who {
		if err := s.checkWho(who); err != nil {
			return grant{}, err
		}
		if who == Anonymous {
			parsed.anonymous = true
			continue
		}
		p, err := parsePattern(who, "/:")
		if err != nil {
			return grant{}, err
		}
		parsed.who = append(parsed.who, p)
	}
	if parsed.anonymous && !slices.Equal(g.Actions, []Action{Pull}) {
		return grant{}, fmt.Errorf("it gives anonymous more than pull\nhint: give the rest to somebody who logs in")
	}
	for _, r := range g.Repositories {
		p, err := parseRepositories(r, hosts)
		if err != nil {
			return grant{}, err
		}
		parsed.repositories = append(parsed.repositories, p)
	}
	return parsed, nil
}

// parseRepositories reads `<host>/<repository>`, with any of our hosts as the first. What lacks
// a host would silently match nothing, and is refused.
func parseRepositories(text string, hosts []string) (pattern, error) {
	host, repository, _ := strings.Cut(text, "/")
	if text != "**" && !isHost(host, hosts) {
		first := "registry.example.com"
		if len(hosts) > 0 {
			first = hosts[0]
		}
		return pattern{}, fmt.Errorf("repositories %q does not begin with a host\nhint: %s/%s", text, first, text)
	}
	if text != "**" && repository == "" {
		return pattern{}, fmt.Errorf("repositories %q names a host only\nhint: %s/**", text, host)
	}
	if slices.Contains(hosts, host) {
		text = hosts[0] + "/" + repository
	}
	return parsePattern(text, "/")
}

func isHost(s string, hosts []string) bool {
	return slices.Contains(hosts, s) || strings.ContainsAny(s, ".:*") || s == "localhost"
}

// gives says whether the grant lets this subject do that there.
func (g grant) gives(subject string, a Action, s Scope) bool {
	if !slices.Contains(g.actions, a) {
		return false
	}
	if !g.anonymous && (subject == Anonymous || !anyMatch(g.who, subject)) {
		return false
	}
	if s.Repository == "" {
		return slices.ContainsFunc(g.repositories, func(p pattern) bool {
			return p.text == "**" || s.Host != "" && p.text == s.Host+"/**"
		})
	}
	for _, p := range g.repositories {
		if p.matchRepository(s.Host, s.Repository) {
			return true
		}
	}
	return false
}
