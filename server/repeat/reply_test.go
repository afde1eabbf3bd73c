package repeat_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// An answer that is not as long as its handler said ends the connection: nobody takes a part for all, and what is
// too much is not taken for the next answer.
func TestWrongLength(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		said  int
		parts []int // that the handler writes
		sent  int
	}{
		{1_000_000, []int{100_000}, 100_000},
		{1000, []int{100}, 100},
		{1000, nil, 0},
		{10, []int{200_000}, 0},
		{10, []int{4, 6, 1, 200_000}, 10},
		{100_000, []int{70_000, 30_000, 1}, 100_000},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.parts, test.said), func(t *testing.T) {
			t.Parallel()
			h := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				if r.URL.Path != "/often/wrong" {
					return
				}
				w.Header().Set("Content-Length", strconv.Itoa(test.said))
				written := 0
				for _, n := range test.parts {
					written += n
					if _, err := io.WriteString(w, strings.Repeat("x", n)); errors.Is(err, http.ErrContentLength) != (written > test.said) {
						t.Errorf("write to %d bytes of %d: %v", written, test.said, err)
					}
				}
			})
			fresh, c := h.dial(t), h.dial(t)
			want := fresh.rest("/often/wrong") // as net/http alone has it
			c.get("/often/first")
			if got := c.rest("/often/wrong"); got != want || got != fmt.Sprintf("%d bytes of %d", test.sent, test.said) {
				t.Errorf("the answer is %s, to a request that net/http has read %s", got, want)
			}
			h.wantRead(t, 2)
		})
	}
}

// rest asks for what ends the connection, and says how much comes before that.
func (c *client) rest(path string) string {
	c.t.Helper()
	c.send("GET %s HTTP/1.1\r\nHost: registry.test\r\n\r\n", path)
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Errorf("GET %s: %v", path, err)
	}
	c.ended("after " + path)
	return fmt.Sprintf("%d bytes of %d", n, res.ContentLength)
}

// To an answer without a body belongs none, whatever its handler says: the next one follows it.
func TestNoBody(t *testing.T) {
	t.Parallel()
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[len("/often/"):]) // the last has none
		if status > 0 {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(status)
		}
		if _, err := io.WriteString(w, "x"); errors.Is(err, http.ErrBodyNotAllowed) != (status > 0) {
			t.Errorf("write to a body of %d: %v", status, err)
		}
	})
	c := h.dial(t)
	for _, path := range []string{"/often/first", "/often/204", "/often/304", "/often/last"} {
		c.get(path)
	}
	h.wantRead(t, 1)
}
