package registry

import (
	"encoding/json"
	"net/http"

	"github.com/countersign-dev/countersign/api"
)

// A discreet writer lets out what distribution answers, once, and without the detail of a
// 5xx: there are the file system's own words, with paths. The log has them.
type discreet struct {
	http.ResponseWriter
	status int
	again  bool // distribution answers an invalid name twice
}

func (w *discreet) WriteHeader(status int) {
	if w.status != 0 {
		w.again = true
		return
	}
	w.status = status
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write gets errors whole: distribution encodes them at once.
func (w *discreet) Write(p []byte) (int, error) {
	switch {
	case w.status == 0:
		w.status = http.StatusOK
	case w.again:
		return len(p), nil
	}
	if w.status < http.StatusInternalServerError {
		return w.ResponseWriter.Write(p)
	}
	var body api.Errors
	if err := json.Unmarshal(p, &body); err != nil || len(body.Errors) == 0 {
		body.Errors = []api.Error{{Code: api.CodeUnknown, Message: "unknown error"}}
	}
	if err := json.NewEncoder(w.ResponseWriter).Encode(body); err != nil {
		return 0, err
	}
	return len(p), nil
}
