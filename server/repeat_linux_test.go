package server_test

import (
	"net"
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
	c := dial(t, repeating(t, srv.Handler(), nil))
	const lists = 20
	first := 0
	for n := range lists {
		if res := tell(t, c, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); res.ContentLength < 5000 {
			t.Fatalf("list %d has %d bytes, want more than 5000", n, res.ContentLength)
		}
		if n == 0 {
			first = segments(t, c.Conn)
		}
	}
	if n := segments(t, c.Conn) - first; n != lists-1 {
		t.Errorf("%d lists came in %d segments", lists-1, n)
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
