package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
)

// A list that is larger than net/http's buffer is sent by one call: the kernel counts what comes.
func TestListIsSentAtOnce(t *testing.T) {
	t.Parallel()
	srv, s := serverWith(t, func(*server.Config) {})
	path := api.ExtensionPath(fill(t, s, "team/app", 5))
	c := dial(t, srv.Handler())
	in := bufio.NewReader(c)
	const lists = 20
	for n := range lists {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("list %d of %d: %v", n+1, lists, err)
		}
		if size, err := io.Copy(io.Discard, res.Body); err != nil || size < 5000 {
			t.Fatalf("list %d of %d has %d bytes, %v; want more than 5000", n+1, lists, size, err)
		}
	}
	if n := segments(t, c); n != lists {
		t.Errorf("%d lists came in %d segments", lists, n)
	}
}

// segments that came on a connection, with data.
func segments(t *testing.T, c net.Conn) (n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); failed == nil {
			n = int(info.Data_segs_in)
		}
	})
	if err != nil || failed != nil {
		t.Fatalf("TCP_INFO: %v, %v", err, failed)
	}
	return n
}
