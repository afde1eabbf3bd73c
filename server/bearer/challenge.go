package bearer

import (
	"net/url"
	"strings"
)

// Parse returns the first Bearer challenge of these values of WWW-Authenticate (RFC 9110, 11.6.1)
// whose realm is the URL of a host, over HTTP.
func Parse(values []string) (Challenge, bool) {
	for _, value := range values {
		for _, c := range challenges(value) {
			if !strings.EqualFold(c.scheme, "Bearer") {
				continue
			}
			realm, err := url.Parse(c.parameters["realm"])
			if err != nil || realm.Hostname() == "" || realm.User != nil || realm.Scheme != "http" && realm.Scheme != "https" {
				continue
			}
			realm.Fragment = ""
			return Challenge{Realm: realm, Service: c.parameters["service"]}, true
		}
	}
	return Challenge{}, false
}

type challenge struct {
	scheme     string
	parameters map[string]string // by name in lower case; of one that comes twice the first
}

// challenges splits one value: schemes with parameters, all of them separated by commas. A word is
// a parameter if an equals sign follows it, and else the next scheme.
func challenges(value string) (all []challenge) {
	for {
		value = strings.TrimLeft(value, " \t,")
		end := strings.IndexAny(value, " \t,=\"")
		if end < 0 {
			end = len(value)
		}
		word, rest := value[:end], strings.TrimLeft(value[end:], " \t")
		assigned, isParameter := strings.CutPrefix(rest, "=")
		switch {
		case word == "" && rest == "":
			return all
		case word == "": // a stray sign
			value = rest[1:]
		case isParameter && len(all) > 0:
			content, left := parameter(strings.TrimLeft(assigned, " \t"))
			into, name := all[len(all)-1].parameters, strings.ToLower(word)
			if _, twice := into[name]; !twice {
				into[name] = content
			}
			value = left
		default:
			all = append(all, challenge{word, map[string]string{}})
			value = rest
		}
	}
}

// parameter reads a word, or a quoted string up to its end.
func parameter(s string) (content, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, " \t,")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
