package e2e

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/sync/errgroup"
)

// A mill makes signatures by the thousand, which gpg does not.
type mill struct{ key *openpgp.Entity }

func milling() *packet.Config {
	return &packet.Config{RSABits: 2048, DefaultHash: crypto.SHA256, DefaultCompressionAlgo: packet.CompressionNone}
}

// newMill returns one whose key a server trusts.
func newMill(t testing.TB, data string) mill {
	t.Helper()
	key, err := openpgp.NewEntity("mill", "", "mill@example.test", milling())
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	if err == nil {
		err = key.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(data, "trusted", "mill.asc"), public.String())
	return mill{key}
}

func (m mill) sign(reference, digest string) ([]byte, error) {
	var signed bytes.Buffer
	w, err := openpgp.Sign(&signed, m.key, &openpgp.FileHints{IsBinary: true}, milling())
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(claim(reference, digest)); err != nil {
		return nil, err
	}
	err = w.Close()
	return signed.Bytes(), err
}

// tree writes n signatures, two an image, and returns what files would.
func (m mill) tree(t testing.TB, root, host string, n int) map[string]string {
	t.Helper()
	found := make(map[string]string, n)
	type made struct{ name, content string }
	results := make(chan made, 100)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	go func() {
		for i := range n {
			group.Go(func() error {
				repository, digest := fmt.Sprintf("team%d/app%d", i/2%20, i/2%150), digestOf(fmt.Append(nil, i/2))
				content, err := m.sign(host+"/"+repository+":v1", digest)
				results <- made{fmt.Sprintf("%s/signature-%d", treePath(repository, digest), i%2+1), string(content)}
				return err
			})
		}
		_ = group.Wait() // asked again below
		close(results)
	}()
	for r := range results {
		found[r.name] = r.content
		write(t, filepath.Join(root, r.name), r.content)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return found
}

// killedAt runs a client command and kills it when yes is. In a soak it must be on its way then;
// what is small may be done before it is killed.
func (s *server) killedAt(t testing.TB, yes func() bool, name string, args ...string) {
	t.Helper()
	killedAt(t, command(context.Background(), append([]string{name, "-server", "http://" + s.address}, args...)...), yes)
}

func killedAt(t testing.TB, c *exec.Cmd, yes func() bool) {
	t.Helper()
	said := newOutput()
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	amid(t, fmt.Sprint(c.Args[1:], " is half done"), yes)
	_ = c.Process.Kill()
	_ = c.Wait() // however it ended
	if killed := !c.ProcessState.Exited(); !killed && (soak() || !c.ProcessState.Success()) {
		t.Errorf("%v ended by itself: %v\n%s", c.Args[1:], c.ProcessState, said)
	} else {
		t.Logf("%s was killed on its way: %v", c.Args[1], killed)
	}
}

// timed runs a client command and logs how long it took and how much memory it had.
func (s *server) timed(t testing.TB, name string, args ...string) string {
	t.Helper()
	c := command(t.Context(), append([]string{name, "-server", "http://" + s.address}, args...)...)
	said := newOutput()
	c.Stdout, c.Stderr = said, said
	began := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	// What the system counts for a process begins with its parent's: this is its own.
	most := "too little to be seen"
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if now := peakOf(c.Process.Pid); now != "" {
				most = now
			}
			continue
		case err := <-ended:
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, said)
			}
		}
		break
	}
	t.Logf("%s took %v and %s; the server has had %s", name, time.Since(began).Round(time.Millisecond), most, peakOf(s.command.Process.Pid))
	return said.String()
}

var peak = regexp.MustCompile(`VmHWM:\s*(\d+ kB)`)

// peakOf is the most memory that a process has had; nothing if it is gone.
func peakOf(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	if found := peak.FindSubmatch(status); found != nil {
		return string(found[1])
	}
	return ""
}

// TestExchange imports a hundred signatures, a hundred thousand in a soak, exports them again and
// has what it began with, although client and server are killed on the way. With both stores.
func TestExchange(t *testing.T) {
	t.Parallel()
	eachStore(t, testExchange)
}

func testExchange(t *testing.T, k kept) {
	n := 100
	if soak() {
		n = 100_000
	}
	flags := append(k.flags(t, ""), "-sign-on", "none")
	s := start(t, flags...)
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	want := newMill(t, s.data).tree(t, from, s.address, n)

	s.killedAt(t, func() bool { return s.imported(t) >= max(n/50, 10) }, "import", "-host", s.address, from)
	t.Logf("import was killed with %d of %d imported, and then the server", s.imported(t), n)
	s.kill(t)
	s = s.again(t, flags...)
	s.timed(t, "import", from)
	shows(t, s.cli(t, 0, "import", from), fmt.Sprintf("0 signatures imported, %s here already, 0 refused, 0 not read", thousands(n)))

	s.killedAt(t, func() bool { return countFiles(t, to) >= n/20 }, "export", "-host", s.address, to)
	t.Logf("export was killed with %d files of %d written", countFiles(t, to), n)
	s.timed(t, "export", "-host", s.address, to)
	got := files(t, to)
	for name, content := range want {
		if got[name] != content {
			t.Fatalf("%s is not what it was", name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files came out, and %d went in", len(got), len(want))
	}
	shows(t, s.cli(t, 0, "export", "-host", s.address, to), " 0 images written, 0 removed")
}

// countFiles is how many signatures a tree has.
func countFiles(t testing.TB, root string) (n int) {
	t.Helper()
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error { // it may not be there yet
		if err == nil && strings.HasPrefix(d.Name(), "signature-") {
			n++
		}
		return nil
	})
	return n
}

// imported is how many signatures the server counts as imported.
func (s *server) imported(t testing.TB) (n int) {
	t.Helper()
	found := regexp.MustCompile(`countersign_imports_total\{outcome="imported"\} (\d+)`).FindStringSubmatch(ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body)
	if found != nil {
		_, _ = fmt.Sscan(found[1], &n)
	}
	return n
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
