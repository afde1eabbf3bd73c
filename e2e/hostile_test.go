package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestImportHostile imports from lookasides that mean no good. Each import ends by itself, says why,
// and has reached nothing that only this machine reaches.
func TestImportHostile(t *testing.T) {
	t.Parallel()
	s := start(t)
	inside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect reached %s on loopback", r.URL)
	}))
	t.Cleanup(inside.Close)
	to := func(where string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, where, http.StatusFound) }
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		says   []string
	}{
		"an endless list": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") },
			[]string{"there is no end to the list", "127 refused", "1 not read"}},
		"an endless list of endless bodies": {func(w http.ResponseWriter, _ *http.Request) {
			for block := make([]byte, 32<<10); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, []string{"too large for a signature", "there is no end to the list", "127 refused"}},
		"a stalled body": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, []string{"the lookaside does not answer", "1 not read"}},
		"a partial body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "half")
		}, []string{"the lookaside does not answer", "unexpected EOF", "0 refused, 1 not read"}},
		"a redirect to loopback":         {to(inside.URL), []string{"it leads elsewhere", "1 not read"}},
		"a redirect to localhost":        {to(strings.Replace(inside.URL, "127.0.0.1", "localhost", 1)), []string{"it leads elsewhere", "1 not read"}},
		"a redirect to a file":           {to("file:///etc/passwd"), []string{"it leads elsewhere", "1 not read"}},
		"a redirect to the own network":  {to("http://10.0.0.1/"), []string{"it leads elsewhere", "1 not read"}},
		"redirects without end":          {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", 302) }, []string{"redirects", "1 not read"}},
		"a page that says it is not one": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }, []string{"something else than 200 or 404", "1 not read"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := odd(t, test.answer)
			shows(t, s.cli(t, 1, "import", url, "ns/app@"+newImage("hostile").digest()), test.says...)
		})
	}
}

// progressing is a line that is written over the one before.
var progressing = regexp.MustCompile(`\r\d[\d,]* (images: |signatures of )`)

// TestProgress looks over a person's shoulder: an import and an export show on a terminal where they
// are, and in a pipe only what came of it.
func TestProgress(t *testing.T) {
	t.Parallel()
	need(t, "script")
	s := start(t, "-sign-on", "none")
	from, to := t.TempDir(), t.TempDir()
	newMill(t, s.data).tree(t, from, s.address, 10)
	for _, test := range []struct{ name, args, sum string }{
		{"import", "import -dry-run " + from, "10 signatures would be imported"},
		{"import", "import " + from, "10 signatures imported"},
		{"export", "export -host " + s.address + " " + to, "10 signatures of 5 images"},
	} {
		args := strings.Fields(test.args)
		out, err := s.onTerminal(t, args[0], args[1:]...)
		if err != nil || !progressing.Match(out) || !strings.Contains(string(out), test.sum) {
			t.Errorf("%s on a terminal: %v, %q; want a line that moves on, and %q", test.args, err, out, test.sum)
		}
		if piped := s.cli(t, 0, args[0], args[1:]...); strings.Contains(piped, "\r") {
			t.Errorf("%s in a pipe writes over lines: %q", test.args, piped)
		}
	}
}

// onTerminal runs a command for a server where somebody looks, and returns what they saw.
func (s *server) onTerminal(t testing.TB, name string, args ...string) ([]byte, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command",
		fmt.Sprintf("exec %s %s -server http://%s %s", built.program, name, s.address, strings.Join(args, " ")), "/dev/null")
	c.Env = command(t.Context()).Env
	return c.CombinedOutput()
}
