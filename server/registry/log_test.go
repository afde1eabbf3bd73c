package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/countersign-dev/countersign/api"
)

// The tests of this file are alone: distribution has one logger in the process.

// lines is what was logged, in JSON.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

// from returns the lines of a level or above, and forgets all.
func (l *lines) from(t *testing.T, level slog.Level) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for decoder := json.NewDecoder(&l.all); decoder.More(); {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatalf("not a line of the log: %v", err)
		}
		var is slog.Level
		if err := is.UnmarshalText([]byte(fmt.Sprint(line["level"]))); err != nil {
			t.Fatal(err)
		}
		if is >= level {
			found = append(found, line)
		}
	}
	l.all.Reset()
	return found
}

func (l *lines) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level}))
}

// What every client may cause wakes nobody; what is broken here is said once, with its cause.
func TestLogLevels(t *testing.T) {
	log := &lines{}
	s := serve(t, EmbeddedConfig{Log: log.logger(slog.LevelDebug)})
	image := s.image("a", "{}")
	s.push("a", "v1", image)
	s.do("GET", "/v2/a/manifests/v2", "")
	s.do("GET", "/v2/localhost:5000/a/manifests/v2", "")
	s.do("GET", "/v2/"+strings.Repeat("a", 256)+"/manifests/v2", "")
	s.put("a", digestA.String(), ociImage, image)
	s.put("a", "v1", ociImage, "no JSON")
	s.do("PUT", "/v2/a/blobs/uploads/x?_state=no&digest="+digestA.String(), "content")
	s.do("PUT", s.do("POST", "/v2/a/blobs/uploads/", "").header.Get("Location")+"&digest="+digestA.String(), "content")
	s.do("GET", "/v2/a/tags/list?n=x", "")
	s.do("GET", "/v2/", "", "X-Forwarded-For", "nowhere", "X-Real-Ip", "nowhere")
	if got := log.from(t, slog.LevelInfo); len(got) > 0 {
		t.Errorf("a client's doing is logged above debug: %v", got)
	}
	s.do("GET", "/v2/a/manifests/v2", "")
	if got := log.from(t, slog.LevelDebug); len(got) == 0 {
		t.Error("nothing at debug")
	}
	s.replaceByFile("docker/registry/v2/blobs")
	s.do("GET", "/v2/a/manifests/v1", "")
	got := log.from(t, slog.LevelInfo)
	if len(got) != 1 || got[0]["level"] != "ERROR" || got[0]["vars.name"] != "a" || got[0]["http.response.status"] != "500" || !strings.Contains(fmt.Sprint(got[0]["err.detail"]), "not a directory") {
		t.Errorf("got %v, want one line at error with repository, status and cause", got)
	}
}

// No line has what a request carried besides its method and the names in its path.
func TestLogHasNoSecrets(t *testing.T) {
	log := &lines{}
	s := serve(t, EmbeddedConfig{Log: log.logger(slog.LevelDebug - 4)})
	s.push("a", "v1", s.image("a", "{}"))
	secrets := []string{
		"Authorization", "Basic aHVudGVyMjpodW50ZXIy", "Referer", "http://x.example/?token=hunter2", "User-Agent", "hunter2", "Cookie", "session=hunter2",
		"X-Forwarded-For", "hunter2", "X-Real-Ip", "hunter2", "Content-Type", "text/hunter2",
	}
	begun := s.do("POST", "/v2/a/blobs/uploads/?token=hunter2", "", secrets...)
	state := strings.Split(begun.header.Get("Location"), "_state=")[1]
	s.do("PATCH", begun.header.Get("Location")+"&token=hunter2", "x", secrets...)
	s.do("PUT", begun.header.Get("Location")+"&token=hunter2&digest="+digestA.String(), "x", secrets...)
	s.do("GET", "/v2/?token=hunter2", "", secrets...)
	s.do("GET", "/v2/a/manifests/v1?token=hunter2", "", secrets...)
	s.do("GET", "/v2/localhost:5000/manifests/v1?token=hunter2", "", secrets...)
	s.do("GET", "/v2/a/tags/list?token=hunter2&n=1&last=x", "", secrets...)
	s.replaceByFile("docker/registry/v2/blobs")
	s.do("GET", "/v2/a/manifests/v1?token=hunter2", "", secrets...)
	s.do("PUT", begun.header.Get("Location")+"&token=hunter2", "x", secrets...)
	secret, err := os.ReadFile(s.directory + "/secret")
	if err != nil {
		t.Fatal(err)
	}
	got := log.from(t, slog.LevelDebug-4)
	if len(got) < 10 {
		t.Errorf("%d lines: nothing was looked at", len(got))
	}
	for _, line := range got {
		for _, secret := range []string{"hunter2", "aHVudGVyMjpodW50ZXIy", state, string(secret)} {
			if strings.Contains(fmt.Sprint(line), secret) {
				t.Errorf("%.20s… is in the log: %v", secret, line)
			}
		}
	}
}

func TestLogOfRefusals(t *testing.T) {
	log := &lines{}
	var refuse error
	var code string
	s := serve(t, EmbeddedConfig{
		Log:     log.logger(slog.LevelInfo),
		Pushed:  func(context.Context, Push) error { return refuse },
		Refusal: func(error) (string, string) { return code, "message" },
	})
	image := s.image("a", "{}")
	for _, test := range []struct {
		code  string
		cause error
		level string
	}{
		{api.CodeDenied, errors.New("cause 1"), "WARN"},
		{api.CodeTooManyRequests, errors.New("cause 2"), "WARN"},
		{api.CodeUnavailable, errors.New("cause 3"), "ERROR"},
		{api.CodeUnknown, errors.New("cause 4"), "ERROR"},
		{api.CodeUnavailable, fmt.Errorf("cause 5: %w", context.Canceled), "WARN"},
	} {
		refuse, code = test.cause, test.code
		s.put("a", "v1", ociImage, image)
		var said int
		for _, line := range log.from(t, slog.LevelInfo) {
			if line["msg"] != "push failed" {
				continue
			}
			said++
			if line["level"] != test.level || line["error"] != test.cause.Error() || line["code"] != test.code || line["repository"] != "a" || line["tag"] != "v1" || line["digest"] == "" {
				t.Errorf("%s, %v: got %v", test.code, test.cause, line)
			}
		}
		if said != 1 {
			t.Errorf("%s, %v: %d lines that say so, want 1", test.code, test.cause, said)
		}
	}
}

// The last registry has the logger, and nothing goes to standard error besides.
func TestLogIsTheLast(t *testing.T) {
	first, last := &lines{}, &lines{}
	s := serve(t, EmbeddedConfig{Log: first.logger(slog.LevelDebug)})
	serve(t, EmbeddedConfig{Log: last.logger(slog.LevelDebug)})
	first.from(t, slog.LevelDebug)
	last.from(t, slog.LevelDebug)
	s.do("GET", "/v2/a/manifests/v1", "")
	if f, l := first.from(t, slog.LevelDebug), last.from(t, slog.LevelDebug); len(f) > 0 || len(l) == 0 {
		t.Errorf("%d lines to the first, %d to the last", len(f), len(l))
	}
	if content, err := (silent{}).Format(logrus.NewEntry(logrus.StandardLogger())); len(content) > 0 || err != nil {
		t.Errorf("logrus's own output: %q, %v", content, err)
	}
}

func TestLevelOf(t *testing.T) {
	for _, test := range []struct {
		level  logrus.Level
		fields logrus.Fields
		want   slog.Level
	}{
		{logrus.ErrorLevel, nil, slog.LevelError},
		{logrus.FatalLevel, nil, slog.LevelError},
		{logrus.WarnLevel, nil, slog.LevelWarn},
		{logrus.InfoLevel, nil, slog.LevelDebug},
		{logrus.DebugLevel, nil, slog.LevelDebug},
		{logrus.ErrorLevel, logrus.Fields{"http.request.method": "GET"}, slog.LevelDebug},
		{logrus.ErrorLevel, logrus.Fields{"http.request.method": "GET", "http.response.status": 404}, slog.LevelDebug},
		{logrus.ErrorLevel, logrus.Fields{"http.request.method": "GET", "http.response.status": 500}, slog.LevelError},
		{logrus.WarnLevel, logrus.Fields{"http.request.method": "GET", "http.response.status": 503}, slog.LevelWarn},
		{logrus.InfoLevel, logrus.Fields{"http.request.method": "GET", "http.response.status": 200}, slog.LevelDebug},
	} {
		if got := levelOf(&logrus.Entry{Level: test.level, Data: test.fields}); got != test.want {
			t.Errorf("%v %v: got %v, want %v", test.level, test.fields, got, test.want)
		}
	}
}
