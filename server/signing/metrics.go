package signing

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/store"
)

type metrics struct {
	made     *prometheus.CounterVec
	attempts *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, s store.Store) (*metrics, error) {
	m := &metrics{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_signatures_made_total", Help: "Signatures the server made and stored, by what made it sign.",
		}, []string{"trigger"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_queue_attempts_total", Help: "Attempts at queued tasks, by what came of them.",
		}, []string{"outcome"}),
	}
	depth := queueDepth{
		store: s,
		tasks: prometheus.NewDesc("countersign_queue_tasks", "Tasks in the queue: those to be done, and those given up.", []string{"state"}, nil),
		age:   prometheus.NewDesc("countersign_queue_age_seconds", "How long the oldest task that is to be done has been queued; 0: there is none.", nil, nil),
	}
	for _, c := range []prometheus.Collector{m.made, m.attempts, depth} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// A queueDepth asks the store when somebody looks.
type queueDepth struct {
	store      store.Store
	tasks, age *prometheus.Desc
}

// Bounds of a look.
const (
	lookWithin = 2 * time.Second
	lookPages  = 20
)

// Describe implements prometheus.Collector.
func (q queueDepth) Describe(ch chan<- *prometheus.Desc) { ch <- q.tasks; ch <- q.age }

// Collect implements prometheus.Collector. While the store is away there are no samples: a zero
// would look like an empty queue.
func (q queueDepth) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
	defer cancel()
	count := map[string]int{store.Queued: 0, store.Dead: 0}
	var oldest time.Time
	for page, after := 0, store.Cursor(""); page == 0 || after != "" && page < lookPages; page++ {
		entries, next, err := q.store.List(ctx, store.Filter{Kind: store.Tasks}, after, 1000)
		if err != nil {
			return
		}
		after = next
		for _, e := range entries {
			count[e.Task.State]++
			if e.Task.State == store.Queued && e.Task.Kind == KindSign && (oldest.IsZero() || e.Task.Queued.Before(oldest)) {
				oldest = e.Task.Queued
			}
		}
	}
	for state, n := range count {
		ch <- prometheus.MustNewConstMetric(q.tasks, prometheus.GaugeValue, float64(n), state)
	}
	age := 0.0
	if !oldest.IsZero() {
		age = max(0, time.Since(oldest).Seconds())
	}
	ch <- prometheus.MustNewConstMetric(q.age, prometheus.GaugeValue, age)
}
