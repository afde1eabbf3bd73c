//go:build !linux

package registry

import "net"

// arrived returns that it cannot be told.
func arrived(*net.TCPConn) int { return 0 }
