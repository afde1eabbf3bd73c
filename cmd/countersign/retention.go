package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/retention"
	"github.com/countersign-dev/countersign/store"
)

// A retentionOf says what becomes of signatures whose manifest or tag was deleted.
type retentionOf struct {
	Deleted string        `yaml:"deleted"` // keep or drop
	After   time.Duration `yaml:"after"`   // from the deletion, for drop
}

func (r retentionOf) check() error {
	switch {
	case r.Deleted != "keep" && r.Deleted != "drop":
		return fmt.Errorf("retention.deleted is %q; it can be keep or drop", r.Deleted)
	case r.After < 0:
		return fmt.Errorf("retention.after is %v; it can be 0s or more", r.After)
	case r.Deleted == "keep" && r.After != 0:
		return fmt.Errorf("retention.after is %v, and retention.deleted says keep: leave one out, or say drop", r.After)
	}
	return nil
}

// openRetention returns who does the tasks of its kind.
func (h *house) openRetention(s settings, r registry.Registry, metrics prometheus.Registerer) (map[string]func(context.Context, store.Task, *store.Task) error, error) {
	c := retention.Config{
		Hosts: s.Hosts, After: s.Retention.After, Registry: r, Hides: s.Registry.URL != "",
		Store: h.store, Clock: time.Now, Log: h.log, Metrics: metrics,
	}
	retained, err := retention.New(c)
	if err != nil {
		return nil, err
	}
	if s.Retention.Deleted == "keep" {
		// What was queued before the settings said so is let be.
		return map[string]func(context.Context, store.Task, *store.Task) error{retention.Kind: retained.Keep}, nil
	}
	h.retained = retained
	return map[string]func(context.Context, store.Task, *store.Task) error{retention.Kind: retained.Drop}, nil
}

// watchers tell of pushes and deletions whoever is there by then.
func (h *house) watchers() watchers {
	return watchers{
		pushed: func(ctx context.Context, p registry.Push) error {
			if h.retained != nil {
				if err := h.retained.Pushed(ctx, p); err != nil {
					return err
				}
			}
			return h.signing.Pushed(ctx, p)
		},
		tagged: func(ctx context.Context, p registry.Push) error { return h.signing.Tagged(ctx, p) },
		deleted: func(ctx context.Context, d registry.Delete) error {
			if h.retained == nil {
				return nil
			}
			return h.retained.Deleted(ctx, d)
		},
	}
}
