package access_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server/access"
)

// What is added to a file counts from the next request on, and what is removed no longer; also
// for logins that were verified before.
func TestFilesAreFollowed(t *testing.T) {
	t.Parallel()
	c := newClock()
	htpasswd := write(t, line(t, "alice", "secret"))
	ci, ciLine := token(t, "ci", time.Time{})
	tokens := write(t, ciLine)
	o := open(t, access.Settings{Htpasswd: htpasswd, Tokens: tokens}, c)
	want(t, o, basic("alice", "secret"), access.Pull, in(""), "user:alice", "")
	want(t, o, bearer(ci), access.Pull, in(""), "token:ci", "")

	rewrite(t, htpasswd, line(t, "bob", "secret"))
	rewrite(t, tokens, "")
	want(t, o, basic("alice", "secret"), access.Pull, in(""), "", "wrong credentials")
	want(t, o, basic("bob", "secret"), access.Pull, in(""), "user:bob", "")
	want(t, o, bearer(ci), access.Pull, in(""), "", "wrong credentials")

	// A change within the same tick of the file system's clock, of the same length, is seen too.
	rewrite(t, htpasswd, line(t, "bob", "changed"))
	want(t, o, basic("bob", "secret"), access.Pull, in(""), "", "wrong credentials")
	want(t, o, basic("bob", "changed"), access.Pull, in(""), "user:bob", "")
	c.pass(time.Hour)
	want(t, o, basic("bob", "changed"), access.Pull, in(""), "user:bob", "")
}

// A new file that does not read leaves the old one in force, and says so until it does.
func TestBadFileChangesNothing(t *testing.T) {
	t.Parallel()
	c := newClock()
	htpasswd := write(t, line(t, "alice", "secret"))
	o := open(t, access.Settings{Htpasswd: htpasswd}, c)
	file := o.Files()[0]
	if file.Name != "htpasswd" || file.Err() != nil {
		t.Fatalf("the file is %q, %v", file.Name, file.Err())
	}
	for what, spoil := range map[string]func() error{
		"garbage":  func() error { return os.WriteFile(htpasswd, []byte("alice"), 0o600) },
		"writable": func() error { return os.Chmod(htpasswd, 0o622) },
		"gone":     func() error { return os.Remove(htpasswd) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		want(t, o, basic("alice", "secret"), access.Pull, in(""), "user:alice", "")
		want(t, o, basic("bob", "secret"), access.Pull, in(""), "", "wrong credentials")
		if file.Err() == nil {
			t.Errorf("%s: no error", what)
		}
		rewrite(t, htpasswd, line(t, "alice", "secret"))
		if err := file.Err(); err != nil {
			t.Errorf("after %s it reads again, and the error is still %v", what, err)
		}
	}
	rewrite(t, htpasswd, line(t, "bob", "secret"))
	file.Reload()
	want(t, o, basic("bob", "secret"), access.Pull, in(""), "user:bob", "")
}

// Many ask while files change: each is answered by one file or the other, never by a half.
func TestFilesTogether(t *testing.T) {
	t.Parallel()
	htpasswd := write(t, line(t, "alice", "secret"))
	both := line(t, "alice", "secret") + line(t, "bob", "secret")
	o := open(t, access.Settings{Htpasswd: htpasswd}, newClock())
	done := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					want(t, o, basic("alice", "secret"), access.Pull, in(""), "user:alice", "")
				}
			}
		})
	}
	for range 20 {
		rewrite(t, htpasswd, both)
		want(t, o, basic("bob", "secret"), access.Pull, in(""), "user:bob", "")
		rewrite(t, htpasswd, strings.Split(both, "\n")[0]+"\n")
	}
	close(done)
	all.Wait()
}
