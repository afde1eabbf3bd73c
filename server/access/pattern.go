package access

import (
	"fmt"
	"regexp"
	"strings"
)

// A pattern is matched in time linear in what it is matched with, whoever wrote either.
type pattern struct {
	text  string
	re    *regexp.Regexp // nil for text without wildcards, and with ** at its end alone
	below bool           // whatever begins with the text, and goes on
}

// parsePattern reads a pattern in which `*` stops at each of the separators.
func parsePattern(text, separators string) (pattern, error) {
	if text == "" || len(text) > maxPattern {
		return pattern{}, fmt.Errorf("pattern %.32q is empty or has more than %d bytes", text, maxPattern)
	}
	if strings.Contains(text, "***") {
		return pattern{}, fmt.Errorf("pattern %q has *** in it\nhint: * or **", text)
	}
	if !strings.Contains(text, "*") {
		return pattern{text: text}, nil
	}
	if before, ok := strings.CutSuffix(text, "**"); ok && !strings.Contains(before, "*") {
		return pattern{text: text, below: true}, nil
	}
	one := "."
	if separators != "" {
		one = "[^" + regexp.QuoteMeta(separators) + "]"
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := text; rest != ""; {
		literal, after, found := strings.Cut(rest, "*")
		b.WriteString(regexp.QuoteMeta(literal))
		if !found {
			break
		}
		if rest = strings.TrimPrefix(after, "*"); rest != after {
			b.WriteString(".+")
		} else {
			b.WriteString(one + "+")
		}
	}
	b.WriteString(`\z`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %w", text, err)
	}
	return pattern{text: text, re: re}, nil
}

func (p pattern) match(s string) bool {
	switch {
	case p.below:
		before := len(p.text) - len("**")
		return len(s) > before && s[:before] == p.text[:before]
	case p.re == nil:
		return p.text == s
	}
	return p.re.MatchString(s)
}

// matchRepository is match for host/repository, which is not put together for what needs no look at it.
func (p pattern) matchRepository(host, repository string) bool {
	return p.text == "**" || p.match(host+"/"+repository)
}

func anyMatch(patterns []pattern, s string) bool {
	for _, p := range patterns {
		if p.match(s) {
			return true
		}
	}
	return false
}
