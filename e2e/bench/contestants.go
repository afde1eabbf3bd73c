package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

//go:embed nginx.conf
var nginxSettings string

// A contestant listens.
type contestant struct {
	*process
	address  string
	database *database // nil: it has none
}

// pids are of all that works for it.
func (c *contestant) pids() []int {
	if c.database == nil {
		return []int{c.pid()}
	}
	return []int{c.pid(), c.database.pid}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (b *bench) nginx(ctx context.Context, root string) (*contestant, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "nginx.conf")
	text := strings.NewReplacer("{{directory}}", b.dir, "{{address}}", address, "{{root}}", root).Replace(nginxSettings)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, errors.New("nginx.conf is for root: run the benchmark as root")
	}
	return b.answering(ctx, serving, address, "nginx", "nginx", "-p", b.dir, "-c", file)
}

// answering starts a contestant and waits until it does.
func (b *bench) answering(ctx context.Context, core int, address, name, program string, args ...string) (*contestant, error) {
	p, err := b.start(core, name, program, args...)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func() (bool, error) {
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return false, fmt.Errorf("%s ended: %s", name, text[max(0, len(text)-2000):])
		default:
		}
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil, nil
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return &contestant{process: p, address: address}, nil
}

// handler is net/http over a map: the least that a server in Go does.
func (b *bench) handler(ctx context.Context, n int) (*contestant, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return b.answering(ctx, serving, address, "handler", b.programs.self, "as", "handler", address, strconv.Itoa(n))
}

const registrySettings = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}, maintenance: {uploadpurging: {enabled: false}}}
http: {addr: %s, secret: bench}
`

// registry is distribution's, without a log.
func (b *bench) registry(ctx context.Context, core int) (*contestant, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "registry.yaml")
	text := fmt.Sprintf(registrySettings, filepath.Join(b.dir, "registry"), address)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	return b.answering(ctx, core, address, "registry", b.programs.registry, file)
}

// accessSettings let everybody read, and whoever has the token write, as often as they like.
const accessSettings = `
access:
  anonymous: pull
  tokens: %s
  grants:
  - {who: ["token:*"], repositories: ["**"], actions: [pull, push]}
  writes: {perSecond: 1000000, burst: 1000000}
`

var listening = regexp.MustCompile(`"msg":"listening","address":"([^"]*)","debug":"([^"]*)"`)

// A serverAt says what a server of ours stands on.
type serverAt struct {
	name     string
	core     int       // -1: all
	database *database // nil: a directory
	open     bool      // no access: it is asked of the registry, or of nobody
	settings string    // YAML, more of it
	flags    []string
	trusted  []byte // whose signatures are taken, armored
}

// server starts ours, with everything on: access, metrics, log.
func (b *bench) server(ctx context.Context, at serverAt) (*contestant, error) {
	data := filepath.Join(b.dir, at.name)
	trusted := filepath.Join(data, "trusted", "bench.asc")
	if err := os.MkdirAll(filepath.Dir(trusted), 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("hosts: [%s]\n", host) + at.settings
	if !at.open {
		if err := os.WriteFile(filepath.Join(data, "tokens"), []byte(tokenLine), 0o600); err != nil {
			return nil, err
		}
		text += fmt.Sprintf(accessSettings, filepath.Join(data, "tokens"))
	}
	if at.trusted != nil {
		if err := os.WriteFile(trusted, at.trusted, 0o644); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(data, "countersign.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	flags := []string{"serve", "-config", file, "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
	if at.database != nil {
		flags = append(flags, "-database-url", at.database.url)
	}
	p, err := b.start(at.core, at.name, b.programs.countersign, append(flags, at.flags...)...)
	if err != nil {
		return nil, err
	}
	found, err := p.await(ctx, listening)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &contestant{process: p, address: found[1], database: at.database}, nil
}

// A database is one in a cluster that has a core.
type database struct {
	cluster *cluster.Cluster
	name    string
	url     string
	pid     int // of the cluster's first process
}

func (b *bench) cluster(settings ...string) (*cluster.Cluster, int, error) {
	c, err := cluster.Start(settings...)
	if err != nil {
		return nil, 0, err
	}
	pid, err := postmaster(c)
	if err == nil {
		err = pinAll(pid, serving)
	}
	if err != nil {
		return nil, 0, errors.Join(err, c.Stop())
	}
	return c, pid, nil
}

func postmaster(c *cluster.Cluster) (int, error) {
	text, err := os.ReadFile(filepath.Join(c.Socket(), "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(line)
}

// pinAll moves a process and those it has started.
func pinAll(pid, core int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return err
	}
	for _, child := range strings.Fields(string(text)) {
		if id, err := strconv.Atoi(child); err == nil {
			_ = pin(id, core) // it may have ended
		}
	}
	return pin(pid, core)
}

// newDatabase makes a database with our schema, in a cluster.
func (b *bench) newDatabase(ctx context.Context, c *cluster.Cluster, pid int) (*database, error) {
	name, err := c.Create("template0")
	if err != nil {
		return nil, err
	}
	d := &database{cluster: c, name: name, url: c.URL(name), pid: pid}
	_, err = output(ctx, -1, b.programs.countersign, "migrate", "-database-url", d.url)
	return d, err
}

// tokenLine is in the tokens file; token is what is sent.
const token = "cst_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

var tokenLine = hashedToken(token)

func authorize(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
