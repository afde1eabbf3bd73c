package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/store"
)

// queue lists what is queued and what is dead.
func (s *Server) queue(r *http.Request) (api.TaskPage, error) {
	page := api.TaskPage{Tasks: []api.TaskEntry{}}
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return page, err
	}
	q := r.URL.Query()
	f := store.Filter{Kind: store.Tasks, Repository: q.Get("repository"), State: q.Get("state")}
	if f.State != "" && f.State != api.TaskQueued && f.State != api.TaskDead {
		return page, fmt.Errorf("%w: state %.20q is neither %s nor %s", errRequest, f.State, api.TaskQueued, api.TaskDead)
	}
	limit, err := limitOf(q.Get("limit"))
	if err != nil {
		return page, err
	}
	entries, next, err := s.c.Store.List(r.Context(), f, store.Cursor(q.Get("after")), limit)
	page.Next = string(next)
	for _, e := range entries {
		page.Tasks = append(page.Tasks, taskEntry(*e.Task))
	}
	return page, err
}

func taskEntry(t store.Task) api.TaskEntry {
	e := api.TaskEntry{
		ID: signing.TaskID(t), Kind: t.Kind, Image: t.Image, State: t.State, Due: t.Due, Attempts: t.Attempts, Problem: t.Problem, Queued: t.Queued,
	}
	var d signing.Detail
	if json.Unmarshal(t.Detail, &d) == nil { // other kinds say other things
		e.Tag, e.Key, e.Trigger = d.Name, d.Key, string(d.Trigger)
	}
	return e
}

// serveTask retries a task (POST <id>/retry) or drops it (DELETE <id>).
func (s *Server) serveTask(w http.ResponseWriter, r *http.Request) {
	err := s.may(r, access.Admin, s.c.Hosts[0], "")
	if err == nil {
		err = s.changeTask(r)
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) changeTask(r *http.Request) error {
	id, retry := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, api.QueuePath+"/"), api.RetrySegment)
	switch {
	case retry && r.Method == http.MethodPost:
		return s.c.Signing.Retry(r.Context(), id)
	case !retry && r.Method == http.MethodDelete:
		return s.c.Signing.Drop(r.Context(), id, caller(r))
	}
	return fmt.Errorf("%w: POST %s/<id>%s retries a task, DELETE %[2]s/<id> drops it", errMethod, api.QueuePath, api.RetrySegment)
}
