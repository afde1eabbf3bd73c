// Package cluster starts throw-away PostgreSQL clusters for tests, on a unix socket only, as root or
// not: initdb refuses root, so root's clusters run as the user postgres.
//
// A cluster is as careful with what it has committed as one in production: fsync and synchronous
// commit are on.
package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrMissing is what Start wraps where no PostgreSQL is installed.
var ErrMissing = errors.New("PostgreSQL is not installed: apt-get install postgresql")

// patience bounds every wait for a cluster.
const patience = 2 * time.Minute

// A Cluster is one server and its data. Its methods return errors that show its log.
type Cluster struct {
	bin, directory string
	as             *syscall.Credential // nil: as we are
	settings       []string
	process        *exec.Cmd
	ended          chan struct{} // closed when process has ended
	databases      atomic.Int64
}

// Start makes a cluster and starts it, with settings like "max_connections=50" over those of its own.
// Stop throws it away.
func Start(settings ...string) (*Cluster, error) {
	c, err := newCluster(settings)
	if err != nil {
		return nil, err
	}
	err = c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--no-locale")
	if err == nil {
		err = c.Serve()
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Standby starts another cluster that streams from this one.
func (c *Cluster) Standby() (*Cluster, error) {
	s, err := newCluster(c.settings)
	if err != nil {
		return nil, err
	}
	if err := s.Follow(c); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Follow makes the cluster, which must not run, a standby of another one, and starts it, where it
// was. What it had is thrown away.
func (c *Cluster) Follow(primary *Cluster) error {
	if err := os.RemoveAll(c.data()); err != nil {
		return err
	}
	err := c.run("pg_basebackup", "-h", primary.directory, "-U", "postgres", "-D", c.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err == nil {
		err = c.run("chmod", "700", c.data())
	}
	if err == nil {
		err = c.Serve()
	}
	return err
}

// Synchronous has every commit wait for a standby, and returns when one has all there is.
func (c *Cluster) Synchronous() error {
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if _, err := c.Psql("postgres", sql); err != nil {
			return err
		}
	}
	return c.await("a standby is synchronous", func() bool {
		state, err := c.Psql("postgres", "SELECT current_setting('synchronous_standby_names') || string_agg(sync_state, '') FROM pg_stat_replication")
		return err == nil && state == "*sync"
	})
}

func newCluster(settings []string) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	directory, err := SocketDir("pg-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, directory: directory, settings: settings}
	if os.Getuid() == 0 {
		if c.as, err = credential("postgres"); err == nil {
			err = os.Chown(directory, int(c.as.Uid), int(c.as.Gid))
		}
	}
	if err == nil {
		err = os.Chmod(directory, 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(directory))
	}
	return c, nil
}

// SocketDir makes a temporary directory, named by a prefix, whose path is short enough for sockets in
// it: theirs end at 108 bytes. Whoever made it removes it.
func SocketDir(prefix string) (string, error) {
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, prefix)
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// binaries is where the latest PostgreSQL of this machine is; Debian's are not in PATH.
func binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", ErrMissing
	}
	slices.SortFunc(found, func(a, b string) int { return release(a) - release(b) })
	return filepath.Dir(found[len(found)-1]), nil
}

func release(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 where it is no number
	return n
}

func (c *Cluster) data() string { return filepath.Join(c.directory, "data") }

// Socket is the directory of the cluster's socket: a host, for clients.
func (c *Cluster) Socket() string { return c.directory }

// URL is a connection string for one of the cluster's databases.
func (c *Cluster) URL(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s sslmode=disable", c.directory, database)
}

// command is one of PostgreSQL's programs, or another, as the cluster's user, without settings of
// whoever runs the tests. It does not outlive us.
func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	if path := filepath.Join(c.bin, name); isFile(path) {
		name = path
	}
	p := exec.Command(name, args...)
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "PG") {
			p.Env = append(p.Env, pair)
		}
	}
	p.Env = append(p.Env, "LC_ALL=C.UTF-8", "HOME=/tmp")
	p.Dir = "/"
	p.SysProcAttr = &syscall.SysProcAttr{Credential: c.as, Pdeathsig: syscall.SIGQUIT}
	return p
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (c *Cluster) run(name string, args ...string) error {
	p := c.command(name, args...)
	if out, err := p.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", p.Args, err, out)
	}
	return nil
}

// Serve starts the cluster's server again, after Kill.
func (c *Cluster) Serve() error {
	args := []string{"-D", c.data(), "-k", c.directory}
	for _, s := range append([]string{
		"listen_addresses=", "unix_socket_permissions=0777", "shared_buffers=32MB", "max_connections=300", "fsync=on",
		"synchronous_commit=on", "wal_level=replica", "max_wal_senders=8", "hot_standby=on", "wal_keep_size=128MB", "logging_collector=off",
	}, c.settings...) {
		args = append(args, "-c", s)
	}
	log, err := os.OpenFile(filepath.Join(c.directory, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has it
	p := c.command("postgres", args...)
	p.Stdout, p.Stderr = log, log
	if err := p.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.Wait() // what it says is in its log
	}()
	c.process, c.ended = p, ended
	return c.await("the server answers", func() bool { return c.run("pg_isready", "-q", "-h", c.directory) == nil })
}

// await asks again until the answer is yes; the server must not end meanwhile.
func (c *Cluster) await(what string, yes func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(patience); !yes(); {
		select {
		case <-ticker.C:
		case <-c.ended:
			return fmt.Errorf("the server ended before: %s\n%s", what, c.log())
		case <-late:
			return fmt.Errorf("not within %v: %s\n%s", patience, what, c.log())
		}
	}
	return nil
}

func (c *Cluster) log() string {
	log, err := os.ReadFile(filepath.Join(c.directory, "log"))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-4000):])
}

// Psql runs SQL in a database and returns what psql prints, without decoration.
func (c *Cluster) Psql(database, sql string) (string, error) {
	p := c.command("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", c.URL(database), "-c", sql)
	var stdout, stderr bytes.Buffer
	p.Stdout, p.Stderr = &stdout, &stderr
	if err := p.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", sql, err, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// Dump is what pg_dump says of a database.
func (c *Cluster) Dump(database string) (sql []byte, err error) {
	p := c.command("pg_dump", "-d", c.URL(database))
	var stderr bytes.Buffer
	p.Stderr = &stderr
	if sql, err = p.Output(); err != nil {
		return nil, fmt.Errorf("pg_dump: %w\n%s", err, &stderr)
	}
	return sql, nil
}

// Restore makes a database of what Dump has said, and returns its name.
func (c *Cluster) Restore(sql []byte) (string, error) {
	name, err := c.Create("template0")
	if err != nil {
		return "", err
	}
	p := c.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", c.URL(name))
	p.Stdin = bytes.NewReader(sql)
	if out, err := p.CombinedOutput(); err != nil {
		return "", fmt.Errorf("psql: %w\n%s", err, out)
	}
	return name, nil
}

// Create makes a database, a clone of another one that nobody is connected to, and returns its name.
func (c *Cluster) Create(template string) (string, error) {
	name := fmt.Sprintf("test%d", c.databases.Add(1))
	_, err := c.Psql("postgres", fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template))
	return name, err
}

// Drop throws a database away, whoever is connected.
func (c *Cluster) Drop(database string) error {
	_, err := c.Psql("postgres", fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", database))
	return err
}

// Promote makes a standby a primary.
func (c *Cluster) Promote() error {
	return c.run("pg_ctl", "-D", c.data(), "-w", "-t", "60", "-s", "promote")
}

// Kill ends the server and everything it started with SIGKILL, all that at once.
func (c *Cluster) Kill() error {
	pid := c.process.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP) // so that it starts no more of them
	backends, err := children(pid)
	for _, backend := range backends {
		_ = syscall.Kill(backend, syscall.SIGKILL) // it may have ended
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	<-c.ended
	return errors.Join(err, c.await0(func() bool { return !slices.ContainsFunc(backends, alive) }))
}

// await0 is await for when the server has ended.
func (c *Cluster) await0(yes func() bool) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(patience); !yes(); {
		select {
		case <-ticker.C:
		case <-late:
			return fmt.Errorf("processes of the server are left after %v", patience)
		}
	}
	return nil
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func children(parent int) (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …; a name may have anything in it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Stop ends the server, if it runs, and throws everything away.
func (c *Cluster) Stop() error {
	if c.process != nil {
		_ = c.process.Process.Signal(syscall.SIGQUIT) // immediate; it may have ended
		select {
		case <-c.ended:
		case <-time.After(patience):
			_ = c.Kill()
		}
	}
	return os.RemoveAll(c.directory)
}
