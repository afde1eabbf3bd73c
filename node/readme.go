package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
)

// readme says what is in the files and what follows from it, for the person who applies them and
// the one who finds them.
func readme(c Config, scopes []policy.Scope, o Options, notes []string) []byte {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n\nThe profile accepts:\n", written(o.Profile))
	for _, s := range scopes {
		if s.Transport != "atomic" && s.Transport != "" {
			fmt.Fprintf(&out, "  %-40s %s\n", scopeName(s), inWords(s.Requirements))
		}
	}
	var paragraphs []string
	if isReject(scopes[0].Requirements) {
		paragraphs = append(paragraphs, everythingRefused+": images of every registry that is not named above, signed or not, those that the "+
			"node itself needs (its pause image, its network, a platform's own), and images of other kinds (oci:, docker-archive:, containers-storage:). "+
			"To keep a registry, give policy.json a scope for it before you apply this: countersign node-config merges into the policy.json that is "+
			"there, or that -merge names, and keeps its scopes.")
	} else if slices.ContainsFunc(scopes[0].Requirements, func(r policy.Requirement) bool { return r.Type == "insecureAcceptAnything" }) {
		paragraphs = append(paragraphs, everythingAccepted+", signed or not: who can make a node pull by another name goes around this policy.")
	}
	if len(o.Hosts) > 0 {
		paragraphs = append(paragraphs, fmt.Sprintf("%s advertises the signature extension: clients find signatures there by themselves, and registries.d has nothing for it.", strings.Join(o.Hosts, ", ")))
	}
	for _, l := range o.Lookasides {
		paragraphs = append(paragraphs, fmt.Sprintf("Signatures of %s are found below %s, which registries.d says; a file that names %[1]s already must go.", l.Host, l.URL))
	}
	for _, note := range notes {
		if !slices.Contains(paragraphs, note) {
			paragraphs = append(paragraphs, note)
		}
	}
	for _, p := range paragraphs {
		fmt.Fprintf(&out, "\n%s\n", wrapped(p, 100))
	}
	fmt.Fprintf(&out, "\nNothing has to be restarted: clients read these files at every pull.\ncountersign lint %s says what is wrong with them.\n", c.Prefix)
	return []byte(out.String())
}

// How the paragraph begins that says what the default means.
const (
	everythingRefused  = "EVERYTHING ELSE IS REFUSED"
	everythingAccepted = "Everything else is accepted"
)

// keeping says of a default that stayed, since it was there, what it means.
func keeping(readme string, fallback []byte) string {
	paragraphs := strings.Split(readme, "\n\n")
	paragraphs = slices.DeleteFunc(paragraphs, func(p string) bool {
		return strings.HasPrefix(p, everythingRefused) || strings.HasPrefix(p, everythingAccepted)
	})
	kept := fmt.Sprintf("What holds for everything else was in policy.json before, and stayed:\n  %s\n"+
		"countersign node-config -replace-default would put the profile's there.", fallback)
	return strings.Join(slices.Insert(paragraphs, min(2, len(paragraphs)), kept), "\n\n")
}

func scopeName(s policy.Scope) string {
	if s.Transport == "docker" && s.Name != "" {
		return s.Name
	}
	return s.Transport + ":" + s.Name
}

func isReject(requirements []policy.Requirement) bool {
	return slices.ContainsFunc(requirements, func(r policy.Requirement) bool { return r.Type == "reject" })
}

func inWords(requirements []policy.Requirement) string {
	var words []string
	for _, r := range requirements {
		switch {
		case r.Type == "insecureAcceptAnything":
			words = append(words, "anything")
		case r.Type == "reject":
			words = append(words, "nothing")
		case r.Type == "signedBy" && r.Keys != nil:
			var keys []string
			for _, k := range r.Keys.Keys() {
				keys = append(keys, k.Fingerprint+" "+k.UserID)
			}
			words = append(words, "what is signed by "+strings.Join(keys, ", or "))
		default:
			words = append(words, r.Type)
		}
	}
	return strings.Join(words, ", and ")
}

func wrapped(text string, width int) string {
	var out strings.Builder
	line := 0
	for _, word := range strings.Fields(text) {
		if line > 0 && line+1+len(word) > width {
			out.WriteByte('\n')
			line = 0
		} else if line > 0 {
			out.WriteByte(' ')
			line++
		}
		out.WriteString(word)
		line += len(word)
	}
	return out.String()
}
