package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// credentials are how a client command says who it is: a token, a name whose password is on
// standard input, or what docker and podman have kept.
type credentials struct {
	username, tokenFile, authFile string
	password                      func() (string, error)
}

func (c *credentials) flags(flags *flagSet) {
	flags.StringVar(&c.username, "username", "", "`name` to log in with; its password is read from standard input, or from COUNTERSIGN_PASSWORD")
	flags.StringVar(&c.tokenFile, "token-file", "", "`file` with a token to log in with")
	flags.StringVar(&c.authFile, "authfile", "", "`file` that docker or podman keep logins in (default: theirs)")
}

// authorize gives a request to a host its credentials, if there are any. They go to no other host.
func (c *credentials) authorize(t terminal, r *http.Request) error {
	switch {
	case c.username != "" && c.tokenFile != "":
		return usageError{errors.New("-username and -token-file are two logins: leave one out")}
	case c.tokenFile != "":
		token, err := os.ReadFile(c.tokenFile)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		return nil
	case c.username != "":
		password, err := c.readPassword(t)
		if err != nil {
			return err
		}
		r.SetBasicAuth(c.username, password)
		return nil
	}
	return c.kept(t, r)
}

// readPassword reads it once: a command may ask the server several times.
func (c *credentials) readPassword(t terminal) (string, error) {
	if c.password == nil {
		password, ok := t.lookup("COUNTERSIGN_PASSWORD")
		var err error
		if !ok {
			if isTerminal(os.Stdin) {
				fmt.Fprintf(t.stderr, "password of %s, from standard input: ", c.username)
			}
			password, err = bufio.NewReader(os.Stdin).ReadString('\n')
			if password != "" {
				err = nil // the last line may lack its end
			}
			password = strings.TrimRight(password, "\r\n")
		}
		c.password = func() (string, error) { return password, err }
	}
	return c.password()
}

// kept looks into the files that docker and podman keep logins in (containers-auth.json(5)).
func (c *credentials) kept(t terminal, r *http.Request) error {
	files := []string{c.authFile}
	if c.authFile == "" {
		files = authFiles(t)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && c.authFile == "" {
			continue
		}
		if err != nil {
			return err
		}
		var kept struct {
			Auths map[string]struct{ Auth string } `json:"auths"`
		}
		if err := json.Unmarshal(content, &kept); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, name := range []string{r.URL.Host, "http://" + r.URL.Host, "https://" + r.URL.Host} {
			decoded, err := base64.StdEncoding.DecodeString(kept.Auths[name].Auth)
			if user, password, ok := strings.Cut(string(decoded), ":"); err == nil && ok {
				r.SetBasicAuth(user, password)
				return nil
			}
		}
	}
	return nil
}

func authFiles(t terminal) (files []string) {
	in := func(variable string, path ...string) {
		if value, ok := t.lookup(variable); ok && value != "" {
			files = append(files, filepath.Join(append([]string{value}, path...)...))
		}
	}
	in("REGISTRY_AUTH_FILE")
	in("XDG_RUNTIME_DIR", "containers", "auth.json")
	in("HOME", ".config", "containers", "auth.json")
	in("DOCKER_CONFIG", "config.json")
	in("HOME", ".docker", "config.json")
	return files
}
