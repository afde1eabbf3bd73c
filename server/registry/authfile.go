package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrNoCredentials is what AuthFile's error wraps where the file reads, and has none for the hosts.
var ErrNoCredentials = errors.New("it has no credentials")

// AuthFile reads the credentials for one of these hosts, the first that has any, out of a file as
// docker and podman write it (containers-auth.json(5)) and Kubernetes keeps it in a secret:
//
//	{"auths": {"registry.example.com:5000": {"auth": "<base64 of user:password>"}}}
//
// It returns them as an Authorization header. Its errors hold none of the file's content.
func AuthFile(content []byte, hosts ...string) (authorization string, err error) {
	var file struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return "", errors.New("it is not JSON of the form {\"auths\": {HOST: {\"auth\": …}}}")
	}
	for _, host := range hosts {
		for name, entry := range file.Auths {
			if host == "" || !strings.EqualFold(hostOf(name), host) || entry.Auth == "" {
				continue
			}
			decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
			if user, _, ok := strings.Cut(string(decoded), ":"); err != nil || !ok || user == "" {
				return "", fmt.Errorf("auth of %s is not the base64 of user:password", host)
			}
			return "Basic " + entry.Auth, nil
		}
	}
	return "", fmt.Errorf("%w for %s", ErrNoCredentials, strings.Join(hosts, " or "))
}

// hostOf is what docker's names have in common: it writes URLs, with a path.
func hostOf(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	for _, path := range []string{"/", "/v1/", "/v2/", "/v1", "/v2"} {
		if host, ok := strings.CutSuffix(name, path); ok && !strings.Contains(host, "/") {
			return host
		}
	}
	return name
}
