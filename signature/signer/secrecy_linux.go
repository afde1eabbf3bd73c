package signer

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// KeepSecret keeps what is in memory out of files and from other processes of the same user: no
// core dump, no debugger, no /proc/PID/mem but for root. It comes before a private key, or what opens one, is read.
func KeepSecret() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core dumps cannot be turned off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("the process cannot be made undumpable: %w", err)
	}
	return nil
}
