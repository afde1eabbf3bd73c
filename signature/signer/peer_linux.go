package signer

import (
	"net"
	"syscall"
)

// credentials are those that the other end had when it connected.
func credentials(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var got *syscall.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) {
		got, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return peer{}, err
	}
	if asked != nil {
		return peer{}, asked
	}
	return peer{user: int(got.Uid), process: int(got.Pid), known: true}, nil
}
