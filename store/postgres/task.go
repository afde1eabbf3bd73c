package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// end decides what becomes of the task that the change ends; nil: there is none.
func (t *transaction) end() (*store.Task, error) {
	ends := t.change.Ends
	if ends == nil {
		return nil, nil
	}
	have, ok := t.tasks[ends.Key]
	if !ok {
		return nil, fmt.Errorf("%w: there is no task %s", store.ErrLease, ends.Key)
	}
	ended, err := have.End(*ends, t.now)
	return &ended, err
}

// writeTasks writes in the order of keys, as everybody does: nobody waits for each other.
func (t *transaction) writeTasks(b *pgx.Batch, ended *store.Task) {
	write := map[string]store.Task{}
	if ended != nil {
		write[ended.Key] = *ended
	}
	for _, then := range t.change.Then {
		have, there := t.tasks[then.Key]
		if is, ok := write[then.Key]; ok {
			have, there = is, is.State != store.Done
		}
		if there && have.State == store.Queued {
			continue
		}
		then.State, then.Lease, then.Attempts = store.Queued, "", 0
		if then.Queued.IsZero() {
			then.Queued = t.now
		}
		if then.Due.IsZero() {
			then.Due = t.now
		}
		write[then.Key] = then
	}
	keys := make([]string, 0, len(write))
	for key := range write {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, strings.Compare)
	for _, key := range keys {
		task := write[key]
		if task.State == store.Done {
			b.Queue(`DELETE FROM tasks WHERE key = $1`, key)
			continue
		}
		ours := ended != nil && ended.Key == key
		// A task that another image's change queued meanwhile stays, unless it is dead.
		b.Queue(`INSERT INTO tasks (`+taskColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, host = excluded.host, repository = excluded.repository, digest = excluded.digest,
				detail = excluded.detail, state = excluded.state, due = excluded.due, attempts = excluded.attempts,
				problem = excluded.problem, queued = excluded.queued, lease = excluded.lease
			WHERE $13 OR tasks.state <> '`+store.Queued+`'`,
			key, task.Kind, task.Image.Host, task.Image.Repository, string(task.Image.Digest), task.Detail, task.State, task.Due,
			task.Attempts, task.Problem, task.Queued, task.Lease, ours)
	}
}

// Take implements store.Store. What others are taking or changing at this moment is not waited for.
func (s *Store) Take(ctx context.Context, lease time.Duration) (taken store.Task, err error) {
	if ctx.Err() != nil {
		return taken, unavailable(ctx.Err())
	}
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
		now := instant(s.o.Clock())
		rows, err := conn.Query(ctx, `UPDATE tasks SET due = $1, lease = $2, attempts = attempts + 1 WHERE key = (
			SELECT key FROM tasks WHERE state = '`+store.Queued+`' AND due <= $3 ORDER BY due, key FOR UPDATE SKIP LOCKED LIMIT 1
		) RETURNING `+taskColumns, now.Add(lease), rand.Text(), now)
		if err != nil {
			return err
		}
		taken, err = pgx.CollectExactlyOneRow(rows, scanTask)
		if errors.Is(err, pgx.ErrNoRows) {
			return errDecided{store.ErrNone}
		}
		return err
	})
	return taken, err
}
