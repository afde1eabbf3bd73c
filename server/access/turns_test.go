package access_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign-dev/countersign/server/access"
)

// However many log in at once, bcrypt has half of the processors at most. Nothing else of this package
// runs beside it: what is counted are goroutines.
func TestLoginsTakeTurns(t *testing.T) {
	const many = 10
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), 6)
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for n := range many {
		fmt.Fprintf(&file, "user%d:%s\n", n, hash)
	}
	o := open(t, access.Settings{Htpasswd: write(t, file.String())}, newClock())
	var all sync.WaitGroup
	for n := range 2 * many { // half of them with a wrong password
		c := basic(fmt.Sprint("user", n%many), []string{"secret", "wrong"}[n/many])
		c.Address = fmt.Sprintf("198.51.100.%d:1", n)
		all.Go(func() {
			_, err := o.Decide(t.Context(), c, access.Pull, in(""))
			switch {
			case errors.Is(err, access.ErrUnavailable): // its turn did not come in time: this machine is slow
			case (err == nil) != (n < many), err != nil && !errors.Is(err, access.ErrUnauthorized):
				t.Errorf("login %d: %v", n, err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	most, stacks := 0, make([]byte, 1<<20)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-done:
			if room := max(1, runtime.GOMAXPROCS(0)/2); most < 1 || most > room {
				t.Errorf("%d ran bcrypt at a time, want up to %d", most, room)
			}
			return
		case <-look.C:
		}
		running := strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "bcrypt.CompareHashAndPassword(")
		most = max(most, running)
	}
}
