package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	helper "github.com/docker/docker-credential-helpers/client"
	"golang.org/x/term"

	"github.com/countersign-dev/countersign/server/registry"
)

// A login is how a client command says who it is: by a token, a name whose password is read from
// standard input, a certificate, or by what docker and podman have kept for the server's host. None
// of them is ever an argument, which others on the machine could read.
type login struct {
	username, tokenFile, authFile string
	ca, certificate, key          string

	once          sync.Once // a command asks often, standard input is there once
	authorization string
	err           error
}

func (l *login) flags(flags *flag.FlagSet) {
	flags.StringVar(&l.username, "username", "", "`name` to log in with; its password is read from standard input, or COUNTERSIGN_PASSWORD")
	flags.StringVar(&l.tokenFile, "token-file", "", "`file` with a token to log in with; or COUNTERSIGN_TOKEN has the token")
	flags.StringVar(&l.authFile, "authfile", "", "`file` that docker or podman keep logins in (default: theirs)")
	flags.StringVar(&l.ca, "ca", "", "PEM `file` of authorities that vouch for the server, beside the system's")
	flags.StringVar(&l.certificate, "client-certificate", "", "PEM `file` of a client certificate")
	flags.StringVar(&l.key, "client-key", "", "PEM `file` of its private key")
}

// authorize gives a request its credentials, if there are any.
func (l *login) authorize(r *http.Request) error {
	l.once.Do(func() { l.authorization, l.err = l.find(r.URL) })
	if l.authorization != "" {
		r.Header.Set("Authorization", l.authorization)
	}
	return l.err
}

func (l *login) find(server *url.URL) (string, error) {
	token, inEnvironment := os.LookupEnv("COUNTERSIGN_TOKEN")
	switch {
	case l.username != "" && l.tokenFile != "":
		return "", usageError{errors.New("-username and -token-file are two logins: leave one out")}
	case l.tokenFile != "":
		content, err := os.ReadFile(l.tokenFile)
		if err == nil && len(bytes.TrimSpace(content)) == 0 {
			err = fmt.Errorf("%s has no token in it", l.tokenFile)
		}
		return "Bearer " + string(bytes.TrimSpace(content)), err
	case l.username != "":
		password, err := l.password()
		return basic(l.username, password), err
	case inEnvironment:
		return "Bearer " + strings.TrimSpace(token), nil
	case server.Scheme == "http" && !loopback(server.Hostname()):
		return "", nil // what was kept for another purpose is not sent where all can read it
	}
	return l.kept(server.Host)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func loopback(name string) bool {
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}

// password is the first line of standard input; at a terminal it is not shown.
func (l *login) password() (string, error) {
	if password, ok := os.LookupEnv("COUNTERSIGN_PASSWORD"); ok {
		return password, nil
	}
	if isTerminal(os.Stdin) {
		fmt.Fprintf(os.Stderr, "password of %s: ", l.username)
		password, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		return string(password), err
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("no password of %s on standard input: %w", l.username, err)
	}
	return line, nil
}

// kept looks into the files of docker and podman, and asks the credential helpers they name
// (containers-auth.json(5)). What there is none of is no error: the server may not ask for any.
func (l *login) kept(host string) (string, error) {
	if l.authFile != "" {
		return keptIn(l.authFile, host)
	}
	for _, file := range authFiles() {
		authorization, err := keptIn(file, host)
		if errors.Is(err, fs.ErrNotExist) || err == nil && authorization == "" {
			continue
		}
		return authorization, err
	}
	return "", nil
}

// authFiles are podman's, then docker's.
func authFiles() (files []string) {
	in := func(variable string, path ...string) {
		if value := os.Getenv(variable); value != "" {
			files = append(files, filepath.Join(append([]string{value}, path...)...))
		}
	}
	if in("REGISTRY_AUTH_FILE"); len(files) > 0 {
		return files
	}
	in("XDG_RUNTIME_DIR", "containers", "auth.json")
	if os.Getenv("XDG_RUNTIME_DIR") == "" {
		files = append(files, fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()))
	}
	in("HOME", ".config", "containers", "auth.json")
	in("DOCKER_CONFIG", "config.json")
	in("HOME", ".docker", "config.json")
	return files
}

func keptIn(file, host string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var helpers struct {
		Hosts map[string]string `json:"credHelpers"`
		Store string            `json:"credsStore"`
	}
	if err := json.Unmarshal(content, &helpers); err != nil {
		return "", fmt.Errorf("%s does not read as JSON", file)
	}
	name, ok := helpers.Hosts[host]
	if !ok {
		authorization, err := registry.AuthFile(content, host)
		if err == nil {
			return authorization, nil
		} else if !errors.Is(err, registry.ErrNoCredentials) {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		name = helpers.Store
	}
	if name == "" {
		return "", nil
	}
	if filepath.Base(name) != name {
		return "", fmt.Errorf("%s: %q is no name of a credential helper", file, name)
	}
	kept, err := helper.Get(helper.NewShellProgramFunc("docker-credential-"+name), host)
	if err != nil || kept.Username == "<token>" { // of another kind, for another protocol
		return "", nil
	}
	return basic(kept.Username, kept.Secret), nil
}

// tls is how the server is known, and the client with a certificate.
func (l *login) tls() (*tls.Config, error) {
	config, err := authorities(l.ca)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if (l.certificate == "") != (l.key == "") {
		return nil, usageError{errors.New("-client-certificate and -client-key come together")}
	}
	if l.certificate == "" {
		return config, nil
	}
	key, err := readFile(l.key, checkPrivate)
	if err != nil {
		return nil, err
	}
	certificate, err := os.ReadFile(l.certificate)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	config.Certificates = []tls.Certificate{pair}
	return config, err
}
