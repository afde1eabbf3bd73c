package server

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own; doc/operating.md says what each is for.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	uploads  *prometheus.CounterVec
	imports  *prometheus.CounterVec

	notifications *prometheus.CounterVec
	stale         prometheus.Counter
	unsigned      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_http_requests_total", Help: "Requests answered.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "countersign_http_request_duration_seconds", Help: "Time from a request to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		uploads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_uploads_total", Help: "Signatures that were sent here, by what became of them.",
		}, []string{"outcome"}),
		imports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_imports_total", Help: "Signatures that an import brought, by what became of them.",
		}, []string{"outcome"}),
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_notifications_total", Help: "Events of manifests that the registry sent, by what became of them.",
		}, []string{"outcome"}),
	}
	m.stale = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "countersign_stale_answers_total", Help: "Answers with what was known before the store went away.",
	})
	m.unsigned = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "countersign_unsigned_answers_total", Help: "Answers without signatures while the store was away, where no node asks for one.",
	})
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.uploads, m.imports, m.notifications, m.stale, m.unsigned} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// An outcome is a kind of request: there are as many as there are counters.
type outcome struct {
	method string
	status int
}

// requestsOf returns what counts the requests of a route. A counter is looked up by its labels once.
func (m *metrics) requestsOf(route string) func(method string, status int, took time.Duration) {
	duration := m.duration.WithLabelValues(route)
	var mu sync.RWMutex
	counters := map[outcome]prometheus.Counter{}
	return func(method string, status int, took time.Duration) {
		duration.Observe(took.Seconds())
		kind := outcome{method, status}
		mu.RLock()
		counter := counters[kind]
		mu.RUnlock()
		if counter == nil {
			counter = m.requests.WithLabelValues(route, method, strconv.Itoa(status))
			mu.Lock()
			counters[kind] = counter
			mu.Unlock()
		}
		counter.Inc()
	}
}
