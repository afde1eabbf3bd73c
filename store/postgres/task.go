package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/store"
)

const taskColumns = `key, kind, host, repository, digest, detail, state, due, attempts, problem, queued, lease`

const taskQuery = `SELECT ` + taskColumns + ` FROM tasks`

func scanTask(row pgx.CollectableRow) (t store.Task, err error) {
	var host, repository, digest string
	err = row.Scan(&t.Key, &t.Kind, &host, &repository, &digest, &t.Detail, &t.State, &t.Due, &t.Attempts, &t.Problem, &t.Queued, &t.Lease)
	t.Image = imageOf(host, repository, digest)
	t.Due, t.Queued = t.Due.UTC(), t.Queued.UTC()
	return t, err
}

// keysOf are those of the tasks that a change is about, each once.
func keysOf(c store.Change) (keys []string) {
	for _, then := range c.Then {
		keys = append(keys, then.Key)
	}
	if c.Ends != nil {
		keys = append(keys, c.Ends.Key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// askTasks takes the tasks. Who waits for no image waits for no task either, and asks which there are.
func (t *transaction) askTasks(b *pgx.Batch, keys []string) {
	const locked = taskQuery + ` WHERE key = ANY($1) ORDER BY key FOR UPDATE`
	if t.waits {
		b.Queue(locked, keys)
		return
	}
	b.Queue(locked+` SKIP LOCKED`, keys)
	b.Queue(`SELECT key FROM tasks WHERE key = ANY($1)`, keys)
}

// readTasks gives each part those that it is about.
func (t *transaction) readTasks(r pgx.BatchResults) error {
	rows, err := r.Query()
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, scanTask)
	if err != nil {
		return err
	}
	for _, task := range all {
		for _, p := range t.parts {
			if slices.Contains(keysOf(p.change), task.Key) {
				p.tasks[task.Key] = task
			}
		}
	}
	if t.waits {
		return nil
	}
	if rows, err = r.Query(); err != nil {
		return err
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, p := range t.parts {
		for _, key := range keysOf(p.change) {
			if _, ours := p.tasks[key]; !ours && slices.Contains(there, key) {
				p.elsewhere = true
			}
		}
	}
	return err
}

// end decides what becomes of the task that the change ends; nil: there is none.
func (p *part) end(now time.Time) (*store.Task, error) {
	ends := p.change.Ends
	if ends == nil {
		return nil, nil
	}
	have, ok := p.tasks[ends.Key]
	if !ok {
		return nil, fmt.Errorf("%w: %s", store.ErrGone, ends.Key)
	}
	ended, err := have.End(*ends, now)
	return &ended, err
}

// A taskWrite is a task as it is to be.
type taskWrite struct {
	store.Task
	ours bool // what is there is overwritten, also while it is queued
}

// taskWrites are what the change does to tasks.
func (p *part) taskWrites(now time.Time) (writes map[string]taskWrite) {
	writes = map[string]taskWrite{}
	if p.ended != nil {
		writes[p.ended.Key] = taskWrite{*p.ended, true}
	}
	for _, then := range p.change.Then {
		have, there := p.tasks[then.Key]
		is, ours := writes[then.Key]
		if ours {
			have, there = is.Task, is.State != store.Done
		}
		if there && have.State == store.Queued {
			continue
		}
		then.State, then.Lease, then.Attempts = store.Queued, "", 0
		if then.Queued.IsZero() {
			then.Queued = now
		}
		if then.Due.IsZero() {
			then.Due = now
		}
		writes[then.Key] = taskWrite{then, p.ended != nil && p.ended.Key == then.Key}
	}
	return writes
}

// writeTasks writes in the order of keys, as everybody does: nobody waits for each other.
func (t *transaction) writeTasks(b *pgx.Batch) {
	all := map[string]taskWrite{}
	for _, p := range t.writing() {
		maps.Copy(all, p.taskWrites(t.now))
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		task := all[key]
		if task.State == store.Done {
			b.Queue(`DELETE FROM tasks WHERE key = $1`, key)
			continue
		}
		// A task that another image's change queued meanwhile stays, unless it is dead.
		b.Queue(`INSERT INTO tasks (`+taskColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, host = excluded.host, repository = excluded.repository, digest = excluded.digest,
				detail = excluded.detail, state = excluded.state, due = excluded.due, attempts = excluded.attempts,
				problem = excluded.problem, queued = excluded.queued, lease = excluded.lease
			WHERE $13 OR tasks.state <> '`+store.Queued+`'`,
			key, task.Kind, task.Image.Host, task.Image.Repository, string(task.Image.Digest), task.Detail, task.State, task.Due,
			task.Attempts, task.Problem, task.Queued, task.Lease, task.ours)
	}
}

// takeQuery leases the task that is due the longest.
const takeQuery = `UPDATE tasks SET due = $1, lease = $2, attempts = attempts + 1 WHERE key = (
	SELECT key FROM tasks WHERE state = '` + store.Queued + `' AND due <= $3 ORDER BY due, key FOR UPDATE SKIP LOCKED LIMIT 1
) RETURNING ` + taskColumns

// Take implements store.Store. What others are taking or changing at this moment is not waited for. It is a transaction
// in one round trip: a lease whose commit has no answer may be there, and is not taken a second time.
func (s *Store) Take(ctx context.Context, lease time.Duration) (taken store.Task, err error) {
	if ctx.Err() != nil {
		return taken, unavailable(ctx.Err())
	}
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
		now := instant(s.o.Clock())
		var b pgx.Batch
		b.Queue(beginQuery)
		b.Queue(`SELECT ` + durably)
		b.Queue(takeQuery, now.Add(lease), rand.Text(), now)
		var found []store.Task
		err := commit(ctx, conn.Conn(), &b, func(r pgx.BatchResults) (err error) {
			if err := skip(r, 2); err != nil {
				return err
			}
			rows, err := r.Query()
			if err == nil {
				found, err = pgx.CollectRows(rows, scanTask)
			}
			return err
		})
		if err != nil && found != nil { // the database is there: its commit waits for a standby
			return slow(err)
		}
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errDecided{store.ErrNone}
		}
		taken = found[0]
		return nil
	})
	return taken, err
}
