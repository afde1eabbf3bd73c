// Distribution serves the registry of distribution, in the version that go.mod names, with the settings
// of a file, as its own program does: tests want a registry that is not ours. It is no part of
// Countersign.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // they register themselves
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "distribution:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: distribution SETTINGS")
	}
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := configuration.Parse(file)
	if err != nil {
		return err
	}
	app := handlers.NewApp(context.Background(), c)
	if tls := c.HTTP.TLS; tls.Certificate != "" {
		return http.ListenAndServeTLS(c.HTTP.Addr, tls.Certificate, tls.Key, app)
	}
	return http.ListenAndServe(c.HTTP.Addr, app)
}
