package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/calendar"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/retention"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A ground is what stays while settings change: what is stored, and what a listener proves itself with.
type ground struct {
	log      *slog.Logger
	store    keptStore
	ledger   *server.Ledger // nil: withdrawals are in the store only
	embedded *registry.Embedded
	tls      *tls.Config   // nil: none
	files    []access.File // that it follows
	metrics  *prometheus.Registry
	current  atomic.Pointer[house] // that stands on it
	roomier  roomier
}

// A house is everything else that a server stands on, opened as its settings say. When they change
// another takes its place.
type house struct {
	*ground
	leave    context.CancelFunc   // ends what it does by itself
	retained *retention.Retention // nil: what is deleted keeps its signatures
	server   *server.Server
	answers  http.Handler                // on the main listener
	debug    http.Handler                // on the debug listener
	keys     map[string]signature.Signer // what the server signs with, by name; none: nothing is signed
	signer   *signature.FileSigner       // the key that the server made itself; nil: it has others, or none
	access   *access.Own                 // nil: the settings say nothing of it
	signing  *signing.Signing
	calendar *calendar.Calendar
	// ownPolicy is the one profile there is without nodes: what the server's keys, as they are now,
	// signed for its hosts. nil: there are nodes.
	ownPolicy atomic.Pointer[policy.Policy]
	made      bool // the key was made just now
	live      map[string]*admission.Live
	files     []access.File // of access and keys
}

// A keptStore is open until it is closed.
type keptStore interface {
	store.Store
	Close() error
}

// open opens the parts from the ground up. What it opened before an error is closed again. The
// first house stands on it then.
func open(ctx context.Context, s settings, log *slog.Logger, more ...access.File) (_ *ground, err error) {
	g := &ground{log: log, metrics: prometheus.NewRegistry(), files: more}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := os.MkdirAll(s.Data, 0o755); err != nil {
		return nil, err
	}
	if err := g.openStore(ctx, s); err != nil {
		return nil, err
	}
	if err := g.openEmbedded(ctx, s); err != nil {
		return nil, err
	}
	h, err := g.build(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := g.openLedger(ctx, s); err != nil {
		return nil, err
	}
	g.current.Store(h)
	return g, nil
}

// build builds a house on the ground, beside the one that may stand there.
func (g *ground) build(ctx context.Context, s settings) (_ *house, err error) {
	h := &house{ground: g, live: map[string]*admission.Live{}}
	ctx, h.leave = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			h.leave()
		}
	}()
	if err := h.openKeys(ctx, s); err != nil {
		return nil, err
	}
	undo, err := h.publishNew(s)
	if err == nil {
		err = h.assemble(ctx, s)
	}
	if err == nil {
		err = h.publishNamed(s) // what is published already, too, now that there is nothing left to refuse
	}
	if err != nil {
		undo()
	}
	return h, err
}

func (h *house) assemble(ctx context.Context, s settings) error {
	metrics := prometheus.NewRegistry() // counts begin anew
	door, err := h.door(s)
	if err != nil {
		return err
	}
	keys, err := h.contained(s, metrics)
	if err != nil {
		return err
	}
	c := signing.Config{
		Hosts: s.Hosts, Keys: keys, Store: h.store, Door: door, Limits: s.Limits,
		Clock: time.Now, Log: h.log, Metrics: metrics,
	}
	if c.Rules, err = h.rules(s); err != nil {
		return err
	}
	// The registry tells the signing of pushes, and the signing asks the registry what a tag is.
	beside, err := h.openRegistry(s, metrics)
	if err != nil {
		return err
	}
	c.Registry = beside.Registry
	if c.Others, err = h.openRetention(s, beside.Registry, metrics); err != nil {
		return err
	}
	if h.signing, err = signing.New(c); err != nil {
		return err
	}
	profiles, err := h.profiles(s)
	if err != nil {
		return err
	}
	who, err := h.openAccess(s, beside.access)
	if err != nil {
		return err
	}
	lookasides, err := h.lookasides(s, door, metrics)
	if err != nil {
		return err
	}
	h.calendar, err = calendar.New(calendar.Config{
		Own: h.own, Admitted: func() *signature.Keyring { return h.live["admission"].Policy().Keyring() },
		Store: h.store, Leads: h.signing.Leading, Clock: time.Now, Log: h.log, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	h.watch(ctx, metrics)
	h.server, err = server.New(server.Config{
		Hosts: s.Hosts, Registry: beside.Registry, Access: who.access, Own: who.own, Issued: who.issued, Writes: who.writes,
		ServePrivate: s.Lookaside.Private == "serve", Lookasides: lookasides, Store: h.store, Door: door, Signing: h.signing, Limits: s.Limits,
		Notifications: beside.notifications, Release: s.Release, Profiles: profiles,
		Calendar: h.calendar.Read, Background: h.roomier.thread,
		DropForeign: s.Admission.Foreign == "drop", Advertise: s.Advertise, Profiling: s.Profiling,
		Keys: h.own, NodeLookasides: func() []node.Lookaside { return s.nodeLookasides(h.live["admission"].Policy()) },
		Log: h.log, Metrics: metrics, Gather: prometheus.Gatherers{h.metrics, metrics}, Clock: time.Now,
	})
	if err != nil {
		return err
	}
	h.answers, h.debug = h.server.Handler(), h.server.DebugHandler()
	return nil
}

// openLedger returns when store and file agree on what is withdrawn: nothing is served before.
func (g *ground) openLedger(ctx context.Context, s settings) (err error) {
	if s.Withdrawals == "" {
		return nil
	}
	g.ledger, err = server.OpenLedger(ctx, server.LedgerConfig{File: s.Withdrawals, Store: g.store, Clock: time.Now, Log: g.log, Metrics: g.metrics})
	return err
}

// door opens what says who may upload: a policy file, or the trusted directory.
func (h *house) door(s settings) (*admission.Door, error) {
	c := admission.Config{Hosts: s.Hosts, Clients: s.Admission.Clients, Clock: time.Now}
	var live *admission.Live
	var err error
	if s.Admission.Policy != "" {
		live, err = admission.OpenPolicy(s.Admission.Policy, h.log)
		c.Remedy = "a signedBy requirement of the admission policy would admit a key"
	} else {
		if err := os.MkdirAll(s.Admission.Trusted, 0o755); err != nil {
			return nil, err
		}
		live, err = admission.OpenTrusted(s.Admission.Trusted, s.Hosts, h.log)
		c.Remedy = "to trust a key, put its public part into " + s.Admission.Trusted
	}
	if err != nil {
		return nil, err
	}
	c.Remedy += "; to copy an image without the signatures it has, use --remove-signatures"
	c.Policy = live.Since
	h.live["admission"] = live
	return admission.New(c), nil
}

// profiles opens the policies of nodes. Without any there is one, default: what the server's keys
// signed for its hosts.
func (h *house) profiles(s settings) (map[string]func() *policy.Policy, error) {
	profiles := map[string]func() *policy.Policy{}
	for name, file := range s.Nodes {
		live, err := admission.OpenPolicy(file, h.log)
		if err != nil {
			return nil, fmt.Errorf("nodes: %s: %w", name, err)
		}
		profiles[name], h.live["nodes/"+name] = live.Policy, live
	}
	if len(profiles) == 0 {
		h.ownPolicy.Store(policy.TrustFirst(s.Hosts, h.own()))
		profiles["default"] = h.ownPolicy.Load
	}
	return profiles, nil
}

// watch shows which policies no longer read, and reads them all again at SIGHUP.
func (h *house) watch(ctx context.Context, metrics prometheus.Registerer) {
	for name, live := range h.live {
		metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countersign_policy_current", Help: "1 while a policy's files read; 0 while they do not, and what they said before is in force.",
			ConstLabels: prometheus.Labels{"policy": name},
		}, func() float64 {
			if live.Err() != nil {
				return 0
			}
			return 1
		}))
	}
	for _, file := range slices.Concat(h.ground.files, h.files) {
		metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countersign_file_current", Help: "1 while files of access, TLS or a key read; 0 while they do not, and what they said before is in force.",
			ConstLabels: prometheus.Labels{"file": file.Name},
		}, func() float64 {
			if file.Err() != nil {
				return 0
			}
			return 1
		}))
	}
	onHangup(ctx, hangups(), h.reload)
}

func (h *house) reload() {
	for _, live := range h.live {
		live.Reload()
	}
	for _, file := range slices.Concat(h.ground.files, h.files) {
		file.Reload()
	}
}

// hangups takes each SIGHUP from now on, and keeps one until somebody asks: taken by nobody it ends the process.
func hangups() chan os.Signal {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return hangup
}

// onHangup does something at each SIGHUP until ctx ends.
func onHangup(ctx context.Context, hangup chan os.Signal, do func()) {
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
				do()
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (g *ground) close() {
	var errs []error
	if g.embedded != nil {
		errs = append(errs, g.embedded.Close())
	}
	if g.ledger != nil {
		errs = append(errs, g.ledger.Close())
	}
	if g.store != nil {
		errs = append(errs, g.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		g.log.Error("closing", "error", err)
	}
}
