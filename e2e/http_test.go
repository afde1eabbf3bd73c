package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// client follows no redirect: none of the paths here may answer one (protocol.md 9.13). It keeps
// no connection, so that a server that drains never waits for one of ours.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       patience,
}

// An answer is what came back, and what was asked, for the failure message.
type answer struct {
	asked  string
	status int
	header http.Header
	body   string
}

// do sends one request; path may carry a query, headers are "Name: value" and may say Host.
func (s *server) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	if s.credentials != "" {
		headers = append(headers, "Authorization: "+s.credentials)
	}
	return ask(t, s.address, method, path, body, headers...)
}

func (s *server) get(t testing.TB, path string, headers ...string) answer {
	t.Helper()
	return s.do(t, "GET", path, "", headers...)
}

func ask(t testing.TB, address, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return answered(t, method+" "+path, res)
}

// raw sends these very bytes, on a connection of their own, and reads one answer.
func (s *server) raw(t testing.TB, request string) answer {
	t.Helper()
	conn, err := net.DialTimeout("tcp", s.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return receive(t, request, conn)
}

// receive reads the answer to a request that was written to conn.
func receive(t testing.TB, request string, conn net.Conn) answer {
	t.Helper()
	line, _, _ := strings.Cut(request, "\r\n")
	method, _, _ := strings.Cut(line, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return answered(t, line, res)
}

func answered(t testing.TB, asked string, res *http.Response) answer {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		t.Fatalf("%s: %v", asked, err)
	}
	return answer{asked: asked, status: res.StatusCode, header: res.Header, body: string(body)}
}

// want asserts the status, and returns the answer for more.
func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: status %d, want %d\n%s", a.asked, a.status, status, tail(a.body, 500))
	}
	return a
}

// says asserts a header's only value.
func (a answer) says(t testing.TB, header, value string) answer {
	t.Helper()
	if got := a.header.Values(header); !slices.Equal(got, []string{value}) {
		t.Errorf("%s: %s is %q, want %q", a.asked, header, got, value)
	}
	return a
}

// refused asserts what every error is (protocol.md 9.19): JSON of exactly one code and one
// message, which contains these words.
func (a answer) refused(t testing.TB, status int, code string, words ...string) {
	t.Helper()
	a.want(t, status)
	if media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); media != "application/json" {
		t.Errorf("%s: an error of type %q, want application/json", a.asked, a.header.Get("Content-Type"))
	}
	var list struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil || len(list.Errors) != 1 {
		t.Errorf(`%s: body is not {"errors":[{"code","message"}]} (%v): %q`, a.asked, err, a.body)
		return
	}
	e := list.Errors[0]
	if e.Code != code || e.Message == "" {
		t.Errorf("%s: code %q and message %q, want code %q and some message", a.asked, e.Code, e.Message, code)
	}
	for _, word := range words {
		if !strings.Contains(e.Message, word) {
			t.Errorf("%s: the message lacks %q: %s", a.asked, word, e.Message)
		}
	}
}

// An entry is a signature as the extension serves it (protocol.md 3.2).
type entry struct {
	SchemaVersion int    `json:"schemaVersion"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	Content       []byte `json:"content"`
}

func extension(repository, digest string) string {
	return "/extensions/v2/" + repository + "/signatures/" + digest
}

func lookaside(repository, digest string) string {
	return "/sigstore/" + repository + "@" + strings.Replace(digest, ":", "=", 1)
}

// signatures is what the extension serves for an image, by the rules of protocol.md 3.2 and 3.4.
func (s *server) signatures(t testing.TB, repository, digest string) []entry {
	t.Helper()
	a := s.get(t, extension(repository, digest)).want(t, 200)
	var list struct{ Signatures []entry }
	decoder := json.NewDecoder(bytes.NewReader([]byte(a.body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil || list.Signatures == nil {
		t.Fatalf(`%s: %v, want {"signatures":[…]}: %q`, a.asked, err, tail(a.body, 500))
	}
	return list.Signatures
}

// countSignatures decodes what the extension answers.
func countSignatures(body io.Reader) (int, error) {
	var list struct{ Signatures []entry }
	err := json.NewDecoder(body).Decode(&list)
	return len(list.Signatures), err
}

// upload PUTs a signature to the extension, as clients do: without a Content-Type, and under a
// name of their own.
func (s *server) upload(t testing.TB, repository, digest string, content []byte) answer {
	t.Helper()
	return s.do(t, "PUT", extension(repository, digest), wire(t, entry{
		SchemaVersion: 2,
		Name:          digest + "@" + digestOf(content)[len("sha256:"):][32:],
		Type:          "atomic",
		Content:       content,
	}))
}

func wire(t testing.TB, v any) string {
	t.Helper()
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}
