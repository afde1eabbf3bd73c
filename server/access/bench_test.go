package access_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign-dev/countersign/server/access"
)

// BenchmarkDecide compares a pull by nobody in particular with those that have logged in, and with
// what bcrypt alone would cost.
func BenchmarkDecide(b *testing.B) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.DefaultCost)
	if err != nil {
		b.Fatal(err)
	}
	ci, line, err := access.NewToken("ci", time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	s := access.Settings{Anonymous: "pull", Htpasswd: filepath.Join(dir, "htpasswd"), Tokens: filepath.Join(dir, "tokens")}
	for path, content := range map[string]string{s.Htpasswd: "alice:" + string(hash), s.Tokens: line} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	later := func() time.Time { return time.Now().Add(time.Minute) } // the files have settled
	o, err := access.Open(s, access.Options{Clock: later, Log: slog.New(slog.DiscardHandler), Hosts: []string{host}})
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]access.Credentials{"anonymous": nobody, "password": basic("alice", "secret"), "token": bearer(ci)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.Decide(b.Context(), c, access.Pull, in("ns/app")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("bcrypt", func(b *testing.B) {
		for b.Loop() {
			if err := bcrypt.CompareHashAndPassword(hash, []byte("secret")); err != nil {
				b.Fatal(err)
			}
		}
	})
}
