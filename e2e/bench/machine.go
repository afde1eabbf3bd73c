package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// machine is what one must know of a machine to compare figures of it.
func machine(ctx context.Context, dir string) []string {
	facts := []string{time.Now().UTC().Format("measured on 2006-01-02 at 15:04 UTC")}
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(info); m != nil {
			model = string(m[1])
		}
	}
	facts = append(facts, fmt.Sprintf("%d cores of %s; who serves has core %d, who asks core %d", runtime.NumCPU(), model, serving, loading))
	for _, file := range []string{"/proc/sys/kernel/osrelease", "/proc/loadavg", autogroups, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"} {
		if text, err := os.ReadFile(file); err == nil {
			facts = append(facts, filepath.Base(file)+": "+strings.TrimSpace(string(text)))
		}
	}
	facts = append(facts, runtime.Version())
	for _, command := range []string{"nginx -v", "wrk -v", "pgbench --version"} {
		words := strings.Fields(command)
		out, _ := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput() // wrk exits with 1
		line, _, _ := strings.Cut(string(out), "\n")
		if line == "" {
			line = words[0] + ": not installed"
		}
		facts = append(facts, line)
	}
	if took, err := fsync(dir); err == nil {
		facts = append(facts, fmt.Sprintf("a write of 4 KiB and its fsync: %.2f ms", took.Seconds()*1e3))
	}
	return facts
}

// autogroups is whether Linux shares the processors out among sessions. PostgreSQL makes a session of each of
// its processes, so that one of them counts as much as the server, who asks and who uploads together.
const autogroups = "/proc/sys/kernel/sched_autogroup_enabled"

// withoutAutogroups shares the processors out among threads, as doc/operating.md tells those to whose database is on the
// server's machine. Where that may not be said, the facts show it.
func withoutAutogroups() (restore func()) {
	before, err := os.ReadFile(autogroups)
	if err != nil {
		return func() {}
	}
	set := func(value []byte) { _ = os.WriteFile(autogroups, value, 0o644) }
	set([]byte("0"))
	return func() { set(before) }
}

// fsync is the median of what a durable write takes.
func fsync(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []float64
	for range 50 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return time.Duration(median(took) * float64(time.Second)), nil
}
