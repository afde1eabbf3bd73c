package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"

	"github.com/countersign-dev/countersign/api"
)

// What was signed and cannot be written down is an error, and keeps nothing from being signed.
func TestSignUnsaid(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	for _, flags := range [][]string{{}, {"-json"}} {
		asked := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked++
			_ = json.NewEncoder(w).Encode(api.SignResult{Queued: true}) // who asked says what is wrong
		}))
		t.Cleanup(server.Close)
		args := append(flags, "-server", server.URL, "localhost/ns/app:v1", "localhost/ns/app:v2")
		err := sign(t.Context(), terminal{full, full, func(string) (string, bool) { return "", false }}, args)
		if !errors.Is(err, syscall.ENOSPC) || asked != 2 {
			t.Errorf("sign %q on a full disk: %v, of 2 images %d were asked for; want an error, and both", flags, err, asked)
		}
	}
}
