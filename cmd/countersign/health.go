package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const healthText = `Ask the server on this machine, or in this container, how it is: exit code 0 if it answers, 1 if it
does not. It asks the debug address, found as serve finds it: by -config, the environment and
-debug-listen. A container that is checked needs nothing else in it.`

// healthPatience is below what orchestrators wait by default for a check.
const healthPatience = 5 * time.Second

// health is "countersign health".
func health(ctx context.Context, t terminal, args []string) error {
	s := defaults()
	config, ready, err := s.parseHealth(t, args)
	if err != nil {
		return err
	}
	if config != "" {
		s = defaults()
		if err := s.load(config); err != nil {
			return err
		}
		if _, _, err := s.parseHealth(t, args); err != nil {
			return err
		}
	}
	path := "/healthz"
	if ready {
		path = "/readyz"
	}
	return askHealth(ctx, t.stdout, "http://"+reachedAt(s.DebugListen)+path)
}

// parseHealth reads the few of serve's flags that say where it is.
func (s *settings) parseHealth(t terminal, args []string) (config string, ready bool, err error) {
	flags := newFlags("health", healthText)
	flags.StringVar(&config, "config", "", "settings `FILE` of the server")
	flags.StringVar(&s.DebugListen, "debug-listen", s.DebugListen, "debug `address` of the server")
	flags.BoolVar(&ready, "ready", false, "ask whether it can serve reads, not only whether it is alive")
	err = parse(t, flags, args)
	return config, ready, err
}

// reachedAt is where a server on this machine answers that listens at an address.
func reachedAt(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if strings.Contains(listen, "::") {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

func askHealth(ctx context.Context, w io.Writer, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Of its own, without proxies: it is this machine that is asked.
	answer, err := (&http.Client{Transport: &http.Transport{}}).Do(r)
	if err != nil {
		return fmt.Errorf("%w\nhint: -debug-listen, or debugListen in the file of -config, says where the server answers", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxSecret))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, answer.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(w, strings.TrimSpace(string(body)))
	return err
}
