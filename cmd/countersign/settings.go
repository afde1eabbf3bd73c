package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v3"

	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A settings is what a server runs with: defaults, then the file, the environment and the flags,
// each over the one before. Of two kinds of one thing there is never a silent choice.
type settings struct {
	Data        string            `yaml:"data"`        // directory of all that is not placed elsewhere
	Listen      string            `yaml:"listen"`      // host:port of the registry and the signatures
	DebugListen string            `yaml:"debugListen"` // host:port of metrics and health
	Hosts       []string          `yaml:"hosts"`       // what nodes call this registry; empty: as it listens
	Advertise   bool              `yaml:"advertise"`   // the signature extension, to clients
	Registry    registryAt        `yaml:"registry"`
	Store       storeAt           `yaml:"store"`
	Admission   admissionBy       `yaml:"admission"`
	Lookasides  []lookasideAt     `yaml:"lookasides"`
	Signing     signingBy         `yaml:"signing"`
	URL         string            `yaml:"url"`    // by which nodes reach this server, for their lookasides; empty: by the first host
	Nodes       map[string]string `yaml:"nodes"`  // policy files of nodes, by profile
	Limits      store.Limits      `yaml:"limits"` // of one image
	TLS         access.TLS        `yaml:"tls"`
	Access      *access.Settings  `yaml:"access"` // nil: the registry's own answer, or everybody may do everything
	Lookaside   lookasideBy       `yaml:"lookaside"`
	Release     []string          `yaml:"release"` // repositories whose signatures OpenShift reads by digest alone
	Retention   retentionOf       `yaml:"retention"`
	Withdrawals string            `yaml:"withdrawals"` // file that keeps withdrawals outside of the store; empty: none
	LogLevel    slog.Level        `yaml:"logLevel"`

	file      string            // that these are of, under flags and environment; empty: none
	SignOn    []signing.Trigger `yaml:"-"` // nil: nobody said, and defaultTriggers hold where there are no rules
	Profiling bool              `yaml:"-"`
	NoAccess  bool              `yaml:"-"` // everybody may do everything, on any address
}

type lookasideBy struct {
	Private string `yaml:"private"` // hide or serve: what not everybody may pull
}

type registryAt struct {
	Embedded string `yaml:"embedded"` // directory; empty, and no URL: below Data
	URL      string `yaml:"url"`      // of a registry that requests are passed on to

	Host     string   `yaml:"host"`     // what the registry is asked for; empty: the name that clients use
	CA       string   `yaml:"ca"`       // file of authorities for it, beside the system's
	AuthFile string   `yaml:"authFile"` // the server's own credentials for it
	Realms   []string `yaml:"realms"`   // hosts of token servers that passwords may go to

	Notifications string `yaml:"notifications"` // file of the secret that it sends with them; empty: none are taken
}

type admissionBy struct {
	Policy  string            `yaml:"policy"`  // file; or
	Trusted string            `yaml:"trusted"` // directory; both empty: below Data
	Clients signature.Clients `yaml:"clients"` // who must be able to read what is admitted
	Foreign string            `yaml:"foreign"` // refuse or drop
}

func defaults() settings {
	return settings{
		Data: "countersign-data", Listen: "127.0.0.1:5000", DebugListen: "127.0.0.1:5080",
		Advertise: true, Limits: store.DefaultLimits(), Store: defaultStore(),
		Lookaside: lookasideBy{Private: "hide"},
		Retention: retentionOf{Deleted: "keep"},
		Admission: admissionBy{Clients: signature.AllClients, Foreign: "refuse"},
	}
}

const serveText = `Serve images and their signatures. Without any flag: an embedded registry and a store of
signatures below ./countersign-data, for this machine only; what is pushed is signed, and what is
uploaded by a key in countersign-data/trusted is admitted and countersigned.`

// readSettings reads the command line twice: first for the file it names, then over that file.
func readSettings(t terminal, args []string) (settings, error) {
	first := defaults()
	file, err := first.parse(t, args)
	if err != nil {
		return settings{}, err
	}
	s := defaults()
	if file != "" {
		if err := s.load(file); err != nil {
			return settings{}, err
		}
		s.file = file
	}
	if _, err := s.parse(t, args); err != nil {
		return settings{}, err
	}
	if err := s.Store.check(); err != nil {
		return settings{}, err
	}
	s.place()
	return s, s.check()
}

func (s *settings) parse(t terminal, args []string) (file string, err error) {
	flags := newFlags("serve", serveText)
	flags.StringVar(&file, "config", "", "settings `FILE`, in YAML")
	flags.StringVar(&s.Data, "data", s.Data, "`directory` of everything that the settings do not place elsewhere")
	flags.StringVar(&s.Listen, "listen", s.Listen, "`address` of the registry and the signatures, as nodes use it")
	flags.StringVar(&s.DebugListen, "debug-listen", s.DebugListen, "`address` of /metrics, /healthz and /readyz")
	flags.Func("host", "what nodes call this registry, `host[:port],…`; signatures name the first (default: -listen)", func(v string) error {
		s.Hosts = strings.Split(v, ",")
		return nil
	})
	s.Store.flags(flags)
	flags.StringVar(&s.Registry.URL, "registry", s.Registry.URL, "`URL` of a registry to stand beside, as http://127.0.0.1:5010 (default: an embedded one)")
	flags.Func("sign-on", "without signing.rules: sign on `push,upload,request`, on some of them, or none (default push,upload)", s.parseSignOn)
	flags.StringVar(&s.TLS.Certificate, "tls-certificate", s.TLS.Certificate, "PEM `file` of the server's certificate and its chain; it is followed")
	flags.StringVar(&s.TLS.Key, "tls-key", s.TLS.Key, "PEM `file` of its private key")
	flags.StringVar(&s.TLS.ClientCA, "tls-client-ca", s.TLS.ClientCA, "PEM `file` of the authorities that vouch for client certificates")
	flags.BoolVar(&s.NoAccess, "insecure-no-access", false, "let everybody who reaches the server push, have it sign, and withdraw, on any address")
	flags.TextVar(&s.LogLevel, "log-level", s.LogLevel, "log what is at least of this `level`: debug, info, warn or error")
	flags.BoolVar(&s.Profiling, "pprof", false, "serve /debug/pprof on the debug address")
	return file, parse(t, flags, args)
}

// load reads one YAML document. A field that is not known is an error that names it and its line.
func (s *settings) load(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var written yaml.Node
	if err := yaml.Unmarshal(content, &written); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := full(&written, ""); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(s); err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", file, err)
	}
	if d.Decode(new(yaml.Node)) != io.EOF {
		return fmt.Errorf("%s: a second document follows; settings are one", file)
	}
	return nil
}

// full refuses a field with nothing behind it: what stood there was lost, or made a comment, and the
// default in its place, as no access at all, is nothing that anybody has asked for.
func full(n *yaml.Node, at string) error {
	for i, child := range n.Content {
		name := at
		switch n.Kind {
		case yaml.MappingNode:
			if i%2 == 0 {
				continue
			}
			name = strings.TrimPrefix(at+"."+n.Content[i-1].Value, ".")
			if child.Kind == yaml.ScalarNode && child.Tag == "!!null" {
				hint := "leave it out, or say what it is"
				if name == "access" {
					hint += "; access: {} lets nobody do anything"
				}
				return fmt.Errorf("line %d: %s has nothing in it\nhint: %s", n.Content[i-1].Line, name, hint)
			}
		case yaml.SequenceNode:
			name = fmt.Sprintf("%s.%d", at, i)
		}
		if err := full(child, name); err != nil {
			return err
		}
	}
	return nil
}

// place puts below Data what is placed nowhere else.
func (s *settings) place() {
	for at, name := range map[*string]string{
		&s.Registry.Embedded: "registry", &s.Store.Directory: "signatures", &s.Admission.Trusted: "trusted",
	} {
		placed := at == &s.Admission.Trusted && s.Admission.Policy != "" || at == &s.Registry.Embedded && s.Registry.URL != "" ||
			at == &s.Store.Directory && s.Store.remote()
		if *at == "" && !placed {
			*at = filepath.Join(s.Data, name)
		}
	}
}

func (s *settings) check() error {
	switch {
	case s.NoAccess && s.controlled():
		return errors.New("-insecure-no-access says that everybody may do everything, and access or registry.url ask who may: leave one out")
	case s.Lookaside.Private != "hide" && s.Lookaside.Private != "serve":
		return fmt.Errorf("lookaside.private is %q; it can be hide or serve", s.Lookaside.Private)
	case s.Admission.Policy != "" && s.Admission.Trusted != "":
		return errors.New("admission.policy and admission.trusted both say who may upload: leave one out")
	case s.Admission.Clients != signature.AllClients && s.Admission.Clients != signature.RecentClients:
		return fmt.Errorf("admission.clients is %q; it can be all or recent", s.Admission.Clients)
	case s.Admission.Foreign != "refuse" && s.Admission.Foreign != "drop":
		return fmt.Errorf("admission.foreign is %q; it can be refuse or drop", s.Admission.Foreign)
	}
	if err := s.Retention.check(); err != nil {
		return err
	}
	for _, repository := range s.Release {
		if named, err := reference.ParseNormalizedNamed("localhost/" + repository); err != nil || reference.Path(named) != repository {
			return fmt.Errorf("release: %q is no repository; openshift/release is one", repository)
		}
	}
	for profile := range s.Nodes {
		if !profileName.MatchString(profile) {
			return fmt.Errorf("nodes: %q cannot be a profile's name: letters, digits, . _ and - are wanted", profile)
		}
	}
	return errors.Join(s.checkURL(), s.checkLimits(), s.checkHosts(), s.checkLookasides(), s.Registry.check(), s.TLS.Check(), s.checkAddresses(), s.checkSigning())
}

// profileName keeps what ends up in URLs, logs and metrics plain.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Clients stop at 128 signatures and at a list of 4 MiB (protocol.md 1.3, 3.4).
func (s *settings) checkLimits() error {
	l := s.Limits
	switch {
	case l.Uploaded < 1 || l.Key < 1 || l.Bytes < 1 || l.All < 1:
		return errors.New("limits: each of uploaded, key, bytes and all is at least 1")
	case l.All > 127:
		return fmt.Errorf("limits.all is %d; clients fail at 128 signatures of one image", l.All)
	case l.Uploaded > l.All:
		return fmt.Errorf("limits.uploaded is %d, more than limits.all, %d", l.Uploaded, l.All)
	case l.Bytes > 3<<20:
		return fmt.Errorf("limits.bytes is %d; above %d clients could refuse the list", l.Bytes, 3<<20)
	}
	return nil
}

func (s *settings) checkHosts() error {
	for i, host := range s.Hosts {
		if !isHost(host) {
			return fmt.Errorf("hosts: clients do not read %q as a registry's host[:port]", host)
		}
		if slices.Contains(s.Hosts[:i], host) {
			return fmt.Errorf("hosts: %s stands there twice", host)
		}
	}
	return nil
}

// controlled tells whether anybody is asked who may do what.
func (s *settings) controlled() bool { return s.Access != nil || s.Registry.URL != "" }

// isHost reports whether clients read a name as a registry's.
func isHost(host string) bool {
	named, err := reference.ParseNormalizedNamed(host + "/image")
	return err == nil && reference.Domain(named) == host
}

func (s *settings) checkAddresses() error {
	main, err := net.ResolveTCPAddr("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	debug, err := net.ResolveTCPAddr("tcp", s.DebugListen)
	if err != nil {
		return fmt.Errorf("debugListen: %w", err)
	}
	switch {
	case main.Port != 0 && main.Port == debug.Port:
		return fmt.Errorf("listen and debugListen both have port %d: give each its own", main.Port)
	case !main.IP.IsLoopback() && !s.controlled() && !s.NoAccess:
		return fmt.Errorf("%s can be reached from other machines, and nothing says who may push and sign there\n"+
			"hint: say so under access in the settings file, or listen on 127.0.0.1", s.Listen)
	case !main.IP.IsLoopback() && len(s.Hosts) == 0:
		return errors.New("hosts is empty: say what nodes call this registry, with -host or in the settings file; signatures name it")
	case s.Profiling && !debug.IP.IsLoopback():
		return fmt.Errorf("-pprof shows what is in memory, and %s can be reached from other machines\nhint: -debug-listen 127.0.0.1:5080", s.DebugListen)
	}
	return nil
}
