package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// invoke starts "countersign serve" with these arguments and no others, and with these settings
// in its environment.
func invoke(t *testing.T, data string, environment []string, args ...string) *server {
	t.Helper()
	s := launch(t, data, func(c *exec.Cmd) {
		c.Args = append([]string{c.Args[0], "serve"}, args...)
		c.Env = append(c.Env, environment...)
	})
	s.locate(t)
	return s
}

// TestSettings moves things by flag, by environment and by file; a flag wins over the environment
// and that over the file.
func TestSettings(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	ports := freePorts(t, 4)
	anywhere := []string{"-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
	for name, test := range map[string]struct {
		flags, environment []string // DATA stands for the directory that is wanted, OTHER for one that is not
		file               string
		host               string
		listen, debug      string
		trigger            bool // whether a push is signed
	}{
		"flags": {
			flags: []string{"-data", "DATA", "-listen", ports[0], "-debug-listen", ports[1], "-host", "flag.example.test", "-sign-on", "push"},
			host:  "flag.example.test", listen: ports[0], debug: ports[1], trigger: true,
		},
		"environment": {
			environment: []string{"COUNTERSIGN_DATA=DATA", "COUNTERSIGN_LISTEN=" + ports[2], "COUNTERSIGN_DEBUG_LISTEN=" + ports[3], "COUNTERSIGN_HOST=env.example.test:5000,b.example.test"},
			host:        "env.example.test:5000", listen: ports[2], debug: ports[3], trigger: true,
		},
		"environment, for what a push does": {
			flags: append([]string{"-data", "DATA"}, anywhere...), environment: []string{"COUNTERSIGN_SIGN_ON=none"},
		},
		"file": {
			flags: anywhere, file: "data: 'DATA'\nhosts: [file.example.test]\n", environment: []string{"COUNTERSIGN_CONFIG=FILE"},
			host: "file.example.test", trigger: true,
		},
		"environment over file": {
			flags: anywhere, file: "data: 'OTHER'\nhosts: [file.example.test]\n", environment: []string{"COUNTERSIGN_CONFIG=FILE", "COUNTERSIGN_DATA=DATA", "COUNTERSIGN_HOST=env.example.test"},
			host: "env.example.test", trigger: true,
		},
		"flag over environment and file": {
			flags: append([]string{"-config", "FILE", "-data", "DATA", "-host", "flag.example.test", "-sign-on", "push"}, anywhere...),
			file:  "data: 'OTHER'\nlisten: 127.0.0.1:1\nhosts: [file.example.test]\n",
			environment: []string{"COUNTERSIGN_CONFIG=/does/not/exist", "COUNTERSIGN_DATA=OTHER", "COUNTERSIGN_HOST=env.example.test",
				"COUNTERSIGN_SIGN_ON=none", "COUNTERSIGN_LISTEN=127.0.0.1:1"},
			host: "flag.example.test", trigger: true,
		},
		"file, for what lies elsewhere": {
			flags: append([]string{"-config", "FILE", "-data", "DATA"}, anywhere...),
			file:  "registry: {embedded: 'DATA/r'}\nstore: {directory: 'DATA/s'}\nadmission: {trusted: 'DATA/t'}\nhosts: [h.example.test]\n",
			host:  "h.example.test", trigger: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data, other := filepath.Join(dir, "data"), filepath.Join(dir, "other")
			place := strings.NewReplacer("DATA", data, "OTHER", other, "FILE", filepath.Join(dir, "settings.yaml"))
			write(t, filepath.Join(dir, "settings.yaml"), place.Replace(test.file))
			s := invoke(t, data, replaceAll(place, test.environment), replaceAll(place, test.flags)...)
			if test.listen != "" && (s.address != test.listen || s.debug != test.debug) {
				t.Errorf("listens at %s and %s, want %s and %s", s.address, s.debug, test.listen, test.debug)
			}
			if _, err := os.Stat(other); err == nil {
				t.Errorf("%s was made, and another directory is named by what wins", other)
			}
			i := newImage(name)
			s.push(t, i, "ns/app", "v1")
			var want []string
			if test.trigger {
				want = []string{"server " + test.host + "/ns/app:v1"}
			}
			s.wantSigned(t, "ns/app", i.digest(), want...)
		})
	}
}

// replaceAll also keeps COUNTERSIGN_DATA, in which DATA is no place.
func replaceAll(r *strings.Replacer, words []string) []string {
	out := make([]string, len(words))
	for n, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if ok {
			out[n] = name + "=" + r.Replace(value)
		} else {
			out[n] = r.Replace(word)
		}
	}
	return out
}

// Where freePorts looks. Linux gives ports from 32768 on to whoever asks for any, also to each connection
// that is made; who starts later would find one of these taken.
var (
	firstPort  = rand.Int32N(ports) // other tests may run on this machine
	portsAsked atomic.Int32
)

const lowestPort, ports = 20000, 10000

// freePorts are addresses whose ports are free on every address of this machine, and stay so: nobody is
// given them but who asks here.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var addresses []string
	for range ports {
		port := lowestPort + (firstPort+portsAsked.Add(1))%ports
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		if addresses = append(addresses, fmt.Sprintf("127.0.0.42:%d", port)); len(addresses) == n {
			return addresses
		}
	}
	t.Fatalf("of %d ports from %d on only %d are free", ports, lowestPort, len(addresses))
	return nil
}

// TestRefusedStarts asserts that what is wrong stops the start with a sentence about it, and
// that nothing was made.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // behind the subtests, which a defer is not
	port := freePorts(t, 1)[0]
	_, number, _ := net.SplitHostPort(port)
	for name, test := range map[string]struct {
		args  []string
		file  string
		words []string
	}{
		"one port twice":                {args: []string{"-listen", port, "-debug-listen", port}, words: []string{number}},
		"one port at two addresses":     {args: []string{"-listen", port, "-debug-listen", "127.0.0.2:" + number}, words: []string{number}},
		"every address":                 {args: []string{"-listen", "0.0.0.0:0"}, words: []string{"0.0.0.0:0", "hint:"}},
		"every address, in IPv6":        {args: []string{"-listen", "[::]:0"}, words: []string{"[::]:0", "hint:"}},
		"every address, unsaid":         {args: []string{"-listen", ":0"}, words: []string{":0", "hint:"}},
		"an address of others":          {args: []string{"-listen", "192.0.2.1:0"}, words: []string{"192.0.2.1:0", "hint:"}},
		"an address in use":             {args: []string{"-listen", taken.Addr().String()}, words: []string{taken.Addr().String(), "in use", "hint:"}},
		"a debug address in use":        {args: []string{"-debug-listen", taken.Addr().String()}, words: []string{taken.Addr().String(), "in use", "hint:"}},
		"profiles for everybody":        {args: []string{"-pprof", "-debug-listen", "0.0.0.0:0"}, words: []string{"pprof", "hint:"}},
		"no address":                    {args: []string{"-listen", "nonsense"}, words: []string{"nonsense"}},
		"no host":                       {args: []string{"-host", "https://registry.example.test"}, words: []string{"https://registry.example.test"}},
		"a host with a path":            {args: []string{"-host", "registry.example.test/ns"}, words: []string{"registry.example.test/ns"}},
		"a host twice":                  {args: []string{"-host", "a.example.test,a.example.test"}, words: []string{"a.example.test"}},
		"a trigger that is none":        {args: []string{"-sign-on", "pull"}, words: []string{"pull"}},
		"a flag that is none":           {args: []string{"-lisen", port}, words: []string{"lisen", "hint:"}},
		"an argument":                   {args: []string{"now"}, words: []string{"now"}},
		"no such file":                  {args: []string{"-config", "/does/not/exist.yaml"}, words: []string{"/does/not/exist.yaml"}},
		"an unknown field":              {file: "advertize: true\n", words: []string{"advertize", "line 1"}},
		"an unknown field, deeper":      {file: "advertise: true\nadmission:\n  trust: /x\n", words: []string{"trust", "line 3"}},
		"a field twice":                 {file: "advertise: true\nadvertise: false\n", words: []string{"advertise"}},
		"a second document":             {file: "advertise: true\n---\nhosts: []\n", words: []string{"document"}},
		"a value of another type":       {file: "advertise: perhaps\n", words: []string{"perhaps"}},
		"clients that are none":         {file: "admission: {clients: some}\n", words: []string{"admission.clients", "some"}},
		"a foreign that is none":        {file: "admission: {foreign: keep}\n", words: []string{"admission.foreign", "keep"}},
		"limits that clients fail at":   {file: "limits: {all: 128}\n", words: []string{"limits.all", "128"}},
		"a host that is none, in files": {file: "hosts: ['h.example.test/x']\n", words: []string{"h.example.test/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			args := []string{"serve", "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
			if test.file != "" {
				args = append(args, "-config", config(t, test.file))
			}
			out := refusal(t, append(args, test.args...)...)
			for _, word := range test.words {
				if !strings.Contains(out, word) {
					t.Errorf("it does not say %q: %s", word, out)
				}
			}
			if strings.Contains(out, "goroutine ") || strings.Count(strings.TrimSpace(out), "\n") > 3 {
				t.Errorf("more than a sentence and a hint:\n%s", out)
			}
			if _, err := os.Stat(filepath.Join(data, "keys")); err == nil {
				t.Error("a key was made")
			}
		})
	}
}
