package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cores of what serves and of what loads it.
const serving, loading = 0, 1

// patience bounds every wait for a process.
const patience = 2 * time.Minute

// programs are what is built once.
type programs struct {
	self, countersign, registry string
}

func build(ctx context.Context, dir string) (programs, error) {
	self, err := os.Executable()
	p := programs{self, filepath.Join(dir, "countersign"), filepath.Join(dir, "distribution")}
	if err != nil {
		return p, err
	}
	if runtime.NumCPU() < 2 {
		return p, errors.New("this machine has one core; who serves and who asks want one each")
	}
	const module = "github.com/countersign-dev/countersign/"
	for out, name := range map[string]string{p.countersign: "cmd/countersign", p.registry: "e2e/distribution"} {
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", out, module+name)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			return p, fmt.Errorf("%v: %w\n%s", c.Args, err, text)
		}
	}
	return p, nil
}

// A process is a contestant that runs.
type process struct {
	name    string
	command *exec.Cmd
	log     string
	ended   chan struct{}
}

// start runs a program on one core; what it writes goes into a file, as a log would.
func (b *bench) start(core int, name, program string, args ...string) (*process, error) {
	log := filepath.Join(b.dir, name+".log")
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the process has it
	c := pinned(context.Background(), core, program, args...)
	c.Stdout, c.Stderr = file, file
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{name: name, command: c, log: log, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = c.Wait() // what it said is in its log
	}()
	return p, nil
}

func pinned(ctx context.Context, core int, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(core), program}, args...)...)
	if core < 0 {
		c = exec.CommandContext(ctx, program, args...)
	}
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "COUNTERSIGN_") && !strings.HasPrefix(pair, "PG") {
			c.Env = append(c.Env, pair)
		}
	}
	c.Env = append(c.Env, "OTEL_TRACES_EXPORTER=none")
	return c
}

func (p *process) pid() int { return p.command.Process.Pid }

// stop ends the process in its own way, or else at once.
func (p *process) stop() {
	if p == nil || p.command.Process == nil {
		return
	}
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// await returns what the first match in the log has in parentheses.
func (p *process) await(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	var found []string
	err := poll(ctx, func() (bool, error) {
		text, err := os.ReadFile(p.log)
		if err != nil {
			return false, err
		}
		if found = re.FindStringSubmatch(string(text)); found != nil {
			return true, nil
		}
		select {
		case <-p.ended:
			return false, fmt.Errorf("%s ended: %s", p.name, text[max(0, len(text)-2000):])
		default:
			return false, nil
		}
	})
	return found, err
}

func poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ticks is the unit of /proc/PID/stat: USER_HZ, 100 on Linux everywhere.
const ticks = 100

// clock reads the clock of the processor's time that a process has used, as clock_getcpuclockid(3) finds it: in
// nanoseconds, where /proc counts hundredths of a second.
func clock(pid int) (float64, error) {
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid)<<3|2, &t)
	return time.Duration(t.Nano()).Seconds(), err
}

// cpu is what processes and all that they started have used, in seconds. It is looked at again where one of
// them ended meanwhile: its parent has it then.
func cpu(pids ...int) (float64, error) {
	for range 100 {
		before, err := used(pids)
		if err != nil {
			return 0, err
		}
		after, err := used(pids)
		if err != nil {
			return 0, err
		}
		if slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) {
			var sum float64
			for _, seconds := range after {
				sum += seconds
			}
			return sum, nil
		}
	}
	return 0, fmt.Errorf("processes come and go below %v: there is no telling what they use", pids)
}

// used is what each of these processes and of those that they started has used, with its children that have ended.
func used(pids []int) (map[int]float64, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	ended, parents := map[int]float64{}, map[int]int{}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		// pid (name) state ppid …; a name may have anything in it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 15 {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		for _, field := range fields[13:15] { // user and system, of children that ended
			n, _ := strconv.ParseFloat(field, 64)
			ended[pid] += n / ticks
		}
	}
	all := map[int]float64{}
	for pid, seconds := range ended {
		if !slices.ContainsFunc(pids, func(of int) bool { return descends(parents, pid, of) }) {
			continue
		}
		own, err := clock(pid)
		switch {
		case err == nil:
			all[pid] = seconds + own
		case slices.Contains(pids, pid) || !errors.Is(err, unix.EINVAL): // so says the kernel of one that is not there
			return nil, fmt.Errorf("the clock of process %d: %w", pid, err)
		}
	}
	return all, nil
}

func descends(parents map[int]int, pid, from int) bool {
	for ; pid > 1; pid = parents[pid] {
		if pid == from {
			return true
		}
	}
	return false
}

// spent is what f costs these processes, in seconds of a core.
func spent(pids []int, f func() error) (float64, error) {
	before, err := cpu(pids...)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := cpu(pids...)
	return after - before, err
}

// pin moves a process, and all that it will start, to a core.
func pin(pid, core int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("process %d is not there", pid)
	}
	var set unix.CPUSet
	set.Set(core)
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetaffinity(id, &set)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// anonymous is the memory of a process that is no file's, in bytes.
func anonymous(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		return 0, errors.New("/proc has no RssAnon")
	}
	kB, err := strconv.ParseFloat(string(found[1]), 64)
	return kB * 1024, err
}
