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
	for _, file := range []string{"/proc/sys/kernel/osrelease", "/proc/loadavg", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"} {
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

// A setting is one of the kernel's, for as long as is measured.
type setting struct{ file, value string }

// settings are what doc/operating.md advises where server, database and registry are on one machine. Linux shares the
// processors out among sessions, where it does, and PostgreSQL makes a session of each of its processes, so that one of
// them counts as much as the server, who asks and who uploads together. BBR, where it is the machine's way to send,
// sends by timers, also what never leaves the machine: cubic is Linux's own.
var settings = []setting{
	{"/proc/sys/kernel/sched_autogroup_enabled", "0"},
	{"/proc/sys/net/ipv4/tcp_congestion_control", "cubic"},
}

// settle makes the settings, and says what they are now and what they were. One that may not be made stays as it was.
func settle(settings []setting) (facts []string, restore func()) {
	var undo []func()
	for _, s := range settings {
		before, err := os.ReadFile(s.file)
		if err != nil {
			continue // this Linux has none
		}
		_ = os.WriteFile(s.file, []byte(s.value), 0)
		undo = append(undo, func() { _ = os.WriteFile(s.file, before, 0) })
		now, _ := os.ReadFile(s.file)
		fact := filepath.Base(s.file) + ": " + strings.TrimSpace(string(now))
		if was := strings.TrimSpace(string(before)); was != strings.TrimSpace(string(now)) {
			fact += ", " + was + " before"
		}
		facts = append(facts, fact)
	}
	return facts, func() {
		for _, u := range undo {
			u()
		}
	}
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
