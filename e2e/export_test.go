package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// nginx serves a directory as a plain web server would that knows nothing of signatures, and
// returns its host:port.
func nginx(t testing.TB, root string) string {
	t.Helper()
	need(t, "nginx")
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	_ = port.Close()
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755) // its workers are another user where we are root
	}
	write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`daemon off;
pid %[1]s/pid;
error_log stderr;
worker_processes 1;
user root;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server { listen %[2]s; root %[3]s; }
}
`, dir, address, root))
	c := exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	said := newOutput()
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait() // however it ends
		if t.Failed() {
			t.Logf("nginx said:\n%s", said)
		}
	})
	eventually(t, "nginx listens", func() bool { return dials(address) })
	return address
}

// A follower is countersign export -follow.
type follower struct {
	command *exec.Cmd
	said    *output
	gone    context.Context
}

func (s *server) follow(t testing.TB, args ...string) *follower {
	t.Helper()
	f := &follower{command: command(context.Background(), append([]string{"export", "-server", "http://" + s.address, "-follow"}, args...)...), said: newOutput()}
	f.command.Stdout, f.command.Stderr = f.said, f.said
	if err := f.command.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	f.gone = gone
	go func() {
		defer ended()
		_ = f.command.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() { f.end(t) })
	return f
}

// end asks it to end, and it must, with exit code 0.
func (f *follower) end(t testing.TB) {
	t.Helper()
	if f.gone.Err() != nil {
		return
	}
	_ = f.command.Process.Signal(syscall.SIGTERM)
	<-f.gone.Done()
	if code := f.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("export -follow ended with %d\n%s", code, f.said)
	}
}

// kill ends it as a power failure would.
func (f *follower) kill() {
	_ = f.command.Process.Kill()
	<-f.gone.Done()
}

// files is what a tree has: paths and contents.
func files(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // somebody writes there
			return nil
		}
		if err != nil || d.IsDir() || d.Name() == ".countersign" {
			return err
		}
		name, err := filepath.Rel(root, path)
		if content, err := os.ReadFile(path); err == nil {
			found[name] = string(content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestExport has nginx stand in for a server that is gone: a node pulls what it pulled before.
func TestExport(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg", "nginx")
	s := trusting(t, "-config", config(t, "advertise: false\n"))
	root := t.TempDir()
	i := newImage("exported")
	reference := s.address + "/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	all, own := filepath.Join(root, "all"), filepath.Join(root, "own")
	shows(t, s.cli(t, 0, "export", all), "2 signatures of 1 images: 1 images written, 0 removed")
	shows(t, s.cli(t, 0, "export", "-host", s.address, own), "2 signatures of 1 images: 1 images written, 0 removed")
	shows(t, s.cli(t, 0, "export", "-host", s.address, own+"/"), "0 images written, 0 removed")
	shows(t, s.cli(t, 1, "export", own), "something else in it", "host "+s.address)

	directory := nginx(t, root)
	n := newNode(t).require(t, s.address, writeKey(t, "alice"))
	for index := 1; index <= 3; index++ {
		name := fmt.Sprintf("/signature-%d", index)
		ours := s.get(t, lookaside("ns/app", i.digest())+name)
		for _, tree := range []string{"/own/", "/all/" + s.address + "/"} {
			theirs := ask(t, directory, "GET", tree+treePath("ns/app", i.digest())+name, "").want(t, ours.status)
			if ours.status == 200 && theirs.body != ours.body {
				t.Errorf("%s%s is not what the server serves", tree, name)
			}
		}
	}
	for _, url := range []string{"http://" + directory + "/own", "http://" + directory + "/all/" + s.address} {
		n.lookaside(t, s.address, url)
		works(t)(n.pull(t, reference))
	}
	s.cli(t, 0, "withdraw", "-key", fingerprintOf(t, "alice"), "-reason", "lost", s.address+"/ns/app@"+i.digest())
	s.cli(t, 0, "export", "-host", s.address, own)
	n.lookaside(t, s.address, "http://"+directory+"/own")
	fails(t, "rejected")(n.pull(t, reference))
	if got := files(t, own); len(got) != 1 {
		t.Errorf("after the withdrawal there are %d files, want 1: %q", len(got), got)
	}

	theirs := t.TempDir()
	write(t, filepath.Join(theirs, "notes"), "mine")
	shows(t, s.cli(t, 1, "export", theirs), "something else in it, as notes", "empty directory")
	empty := start(t)
	shows(t, empty.cli(t, 1, "export", "-host", s.address, own), "the right server?")
	if got := files(t, own); len(got) != 1 {
		t.Errorf("a server without signatures emptied the tree")
	}
}

// TestExportFollows keeps a tree as the server is, through withdrawals, its own end and the
// server's.
func TestExportFollows(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	tree, i := filepath.Join(t.TempDir(), "live"), newImage("followed")
	reference := s.address + "/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	f := s.follow(t, "-host", s.address, tree)
	// is waits until the tree has exactly what the lookaside serves of the image.
	is := func(step string, want int) {
		t.Helper()
		eventually(t, step, func() bool {
			got := files(t, tree)
			if len(got) != want {
				return false
			}
			for index := 1; index <= want; index++ {
				name := fmt.Sprintf("/signature-%d", index)
				if got[treePath("ns/app", i.digest())+name] != s.get(t, lookaside("ns/app", i.digest())+name).want(t, 200).body {
					return false
				}
			}
			return true
		})
	}
	is("the first signature", 1)
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	is("a second one", 2)
	shows(t, s.cli(t, 1, "export", "-host", s.address, tree), "another process writes there")

	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	is("a third one", 3)
	byDigest := s.address + "/ns/app@" + i.digest()
	name := s.signatures(t, "ns/app", i.digest())[0].Name
	s.cli(t, 0, "withdraw", "-signature", name, "-reason", "x", byDigest)
	is("the first one gone", 2)

	s.stop(t)
	if _, err := f.said.await(context.Background(), regexp.MustCompile("waiting for the server")); err != nil {
		t.Fatalf("it does not tell that the server is away: %v\n%s", err, f.said)
	}
	again := s.again(t)
	again.tag(t, i, "ns/app", "v1")
	again.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	is("it follows a server that was started again", 4)
	if got := f.said.String(); strings.Count(got, "waiting for the server") != 1 || strings.Count(got, "the server is back") != 1 {
		t.Errorf("it told not once that the server is away, and once that it is back:\n%s", got)
	}

	f.kill()
	write(t, filepath.Join(tree, treePath("ns/app", i.digest()), ".new-9"), "half")
	again.cli(t, 0, "withdraw", "-image", "-reason", "x", byDigest)
	f = again.follow(t, "-host", s.address, tree)
	// Nothing is served any more: it would not empty a tree without being sure.
	if _, err := f.said.await(context.Background(), regexp.MustCompile(`the right server\?`)); err != nil {
		t.Fatalf("%v\n%s", err, f.said)
	}
	<-f.gone.Done()
	other := newImage("another")
	again.push(t, other, "ns/app", "v2")
	again.follow(t, "-host", s.address, tree)
	eventually(t, "what was withdrawn meanwhile is gone", func() bool {
		got := files(t, tree)
		_, there := got[treePath("ns/app", other.digest())+"/signature-1"]
		return len(got) == 1 && there && !strings.Contains(fmt.Sprint(got), i.digest())
	})
}
