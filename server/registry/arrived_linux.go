package registry

import (
	"net"

	"golang.org/x/sys/unix"
)

// arrived waits until something has come, and returns how many bytes there are: none at the end, or
// where that cannot be told.
func arrived(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	waited := false
	_ = raw.Read(func(fd uintptr) bool { // whose error the next read has, too
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil || n > 0 || waited {
			return true
		}
		waited = true
		return false
	})
	if err != nil {
		return 0
	}
	return n
}
