package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/server/signing"
)

// settingsOf reads settings with this environment, NAME=value, and these arguments.
func settingsOf(t *testing.T, environment []string, args ...string) (settings, error) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	return readSettings(terminal{null, null, func(name string) (string, bool) {
		for _, pair := range environment {
			if n, value, _ := strings.Cut(pair, "="); n == name {
				return value, true
			}
		}
		return "", false
	}}, args)
}

func file(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "countersign.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	s, err := settingsOf(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != "127.0.0.1:5000" || s.DebugListen != "127.0.0.1:5080" || !s.Advertise || s.Profiling || len(s.Hosts) != 0 {
		t.Errorf("defaults are %+v", s)
	}
	if s.Registry.Embedded != "countersign-data/registry" || s.Store.Directory != "countersign-data/signatures" || s.Admission.Trusted != "countersign-data/trusted" {
		t.Errorf("places are %+v", s)
	}
}

// A flag wins over the environment, that over the file, that over the default.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	config := file(t, "listen: 127.0.0.1:1\nhosts: [file.example.com]\ndata: /file\nadvertise: false\nstore: {directory: /elsewhere}\n")
	for _, test := range []struct {
		environment, args   []string
		listen, host, store string
		advertise           bool
	}{
		{nil, []string{"-config", config}, "127.0.0.1:1", "file.example.com", "/elsewhere", false},
		{[]string{"COUNTERSIGN_CONFIG=" + config, "COUNTERSIGN_LISTEN=127.0.0.1:2"}, nil, "127.0.0.1:2", "file.example.com", "/elsewhere", false},
		{[]string{"COUNTERSIGN_LISTEN=127.0.0.1:2", "COUNTERSIGN_HOST=env.example.com"}, []string{"-listen", "127.0.0.1:3", "-config=" + config}, "127.0.0.1:3", "env.example.com", "/elsewhere", false},
		{[]string{"COUNTERSIGN_DATA=/env"}, []string{"--host=a.example.com,b:1"}, "127.0.0.1:5000", "a.example.com", "/env/signatures", true},
	} {
		s, err := settingsOf(t, test.environment, test.args...)
		if err != nil {
			t.Errorf("%q %q: %v", test.environment, test.args, err)
			continue
		}
		if s.Listen != test.listen || s.Hosts[0] != test.host || s.Store.Directory != test.store || s.Advertise != test.advertise {
			t.Errorf("%q %q: got %+v, want %+v", test.environment, test.args, s, test)
		}
	}
}

func TestSignOn(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][]signing.Trigger{
		"push,upload": {signing.OnPush, signing.OnUpload}, "push": {signing.OnPush}, "upload": {signing.OnUpload}, "none": nil,
	} {
		if s, err := settingsOf(t, nil, "-sign-on", value); err != nil || !slices.Equal(s.SignOn, want) {
			t.Errorf("%s: got %v, %v, want %v", value, s.SignOn, err, want)
		}
	}
}

// What is wrong stops the start with a sentence that names it.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		yaml string
		args []string
		says string
	}{
		{"listne: x\n", nil, "line 1: field listne not found"},
		{"registry: {embeded: x}\n", nil, "field embeded not found"},
		{"listen: [a]\n", nil, "line 1"},
		{"data: x\naccess:\n", nil, "line 2: access has nothing in it"},
		{"access: # {htpasswd: x}\nregistry: {url: http://127.0.0.1:1}\n", nil, "access: {}"},
		{"access: ~\n", nil, "line 1: access has nothing in it"},
		{"access:\n  grants:\n  - {who: [anonymous], repositories: ['**'], actions: }\n", nil, "line 3: access.grants.0.actions has nothing in it"},
		{"tls: {certificate: x, key: }\n", nil, "tls.key has nothing in it"},
		{"signing:\n  rules:\n", nil, "signing.rules has nothing in it"},
		{"listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", nil, `"listen" already defined`},
		{"listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2\n", nil, "second document"},
		{"admission: {clients: some}\n", nil, "admission.clients"},
		{"admission: {foreign: keep}\n", nil, "admission.foreign"},
		{"store: {directory: x, database: y}\n", nil, "store.directory and a database"},
		{"store: {directory: x}\n", []string{"-database-url", "postgres://db/x"}, "store.directory and a database"},
		{"store: {databaseFile: x}\n", []string{"-database-url", "postgres://db/x"}, "store.databaseFile"},
		{"store: {database: x, directURL: x, directURLFile: y}\n", nil, "store.directURLFile"},
		{"store: {keep: x}\n", nil, "none is named"},
		{"store: {stale: 25h}\n", nil, "store.stale"},
		{"store: {memory: 31}\n", nil, "store.memory"},
		{"store: {memory: -1}\n", nil, "store.memory"},
		{"store: {timeout: 0s}\n", nil, "store.timeout"},
		{"store: {retries: 11}\n", nil, "store.retries"},
		{"limits: {uploaded: 0}\n", nil, "limits"},
		{"limits: {all: 128}\n", nil, "128"},
		{"limits: {uploaded: 101}\n", nil, "limits.uploaded"},
		{"limits: {bytes: 4000000}\n", nil, "limits.bytes"},
		{"hosts: [registry]\n", nil, `"registry"`},
		{"hosts: [registry.example.com/ns]\n", nil, "registry.example.com/ns"},
		{"hosts: [a.example.com, a.example.com]\n", nil, "twice"},
		{"", []string{"-listen", "127.0.0.1:5080"}, "port 5080"},
		{"", []string{"-listen", "0.0.0.0:5000"}, "hint:"},
		{"", []string{"-listen", ":5000"}, "hint:"},
		{"", []string{"-listen", "[::]:5000"}, "hint:"},
		{"", []string{"-listen", "192.0.2.1:5000"}, "hint:"},
		{"", []string{"-listen", "5000"}, "listen"},
		{"", []string{"-listen", "0.0.0.0:5000", "-insecure-no-access"}, "hosts is empty"},
		{"access: {}\nlisten: 0.0.0.0:5000\n", nil, "hosts is empty"},
		{"access: {}\n", []string{"-insecure-no-access"}, "leave one out"},
		{"access: {anonimous: pull}\n", nil, "line 1: field anonimous not found"},
		{"access: {oidc: [{name: x, sesion: 1h}]}\n", nil, "field sesion not found"},
		{"lookaside: {private: maybe}\n", nil, "lookaside.private"},
		{"tls: {certificate: x}\n", nil, "come together"},
		{"", []string{"-tls-client-ca", "x"}, "clientCA without"},
		{"", []string{"-pprof", "-debug-listen", "0.0.0.0:5080"}, "-pprof"},
		{"", []string{"-sign-on", "pull"}, `"pull"`},
		{"", []string{"-sign-on", "none,push"}, `"none"`},
		{"", []string{"-sing-on", "push"}, "sing-on"},
		{"", []string{"push"}, `"push"`},
		{"", []string{"-config", "/nowhere/at.all"}, "/nowhere/at.all"},
	} {
		if test.yaml != "" {
			test.args = append(test.args, "-config", file(t, test.yaml))
		}
		if s, err := settingsOf(t, nil, test.args...); !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%q %q: got %+v, %v, want an error that says %q", test.yaml, test.args, s, err, test.says)
		}
	}
	if _, err := settingsOf(t, []string{"COUNTERSIGN_PPROF=maybe"}); !strings.Contains(fmt.Sprint(err), "COUNTERSIGN_PPROF") {
		t.Errorf("a bad variable: got %v, want an error that names it", err)
	}
}

// The page on settings names every one of them.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../doc/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		for field := range of.Fields() {
			name := field.Tag.Get("yaml")
			if name == "" {
				name = strings.ToLower(field.Name)
			}
			switch {
			case name == "-", !field.IsExported():
			case field.Type.Kind() == reflect.Struct && prefix == "":
				walk(name+".", field.Type)
			case !strings.Contains(string(page), "`"+prefix+name+"`") && !(prefix == "limits." && strings.Contains(string(page), "`."+name+"`")):
				t.Errorf("doc/operating.md does not name %s%s", prefix, name)
			}
		}
	}
	walk("", reflect.TypeFor[settings]())
}

// The table of what happens when a part is away names tests that there are.
func TestOutagesAreTested(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../doc/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n### When a part is away\n")
	table, _, _ = strings.Cut(table, "\n## ")
	cell := regexp.MustCompile("((?:`Test[A-Za-z]+`(?:, )?)+) \\(([a-z0-9/]+)\\)")
	rows := strings.Count(table, "\n| ") - 1 // and a head
	if !found || rows < 10 {
		t.Fatalf("doc/operating.md has a table of %d rows, want what happens when each part is away", rows)
	}
	for line := range strings.Lines(table) {
		named := cell.FindAllStringSubmatch(line, -1)
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| away") && len(named) == 0 {
			t.Errorf("a row names no test: %s", line)
		}
		for _, m := range named {
			tests := testsIn(t, filepath.Join("../..", m[2]))
			for _, name := range regexp.MustCompile("Test[A-Za-z]+").FindAllString(m[1], -1) {
				if !strings.Contains(tests, "\nfunc "+name+"(t *testing.T)") {
					t.Errorf("%s has no %s, which a row names", m[2], name)
				}
			}
		}
	}
}

func testsIn(t *testing.T, directory string) (text string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += string(content)
	}
	return text
}
