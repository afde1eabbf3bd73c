package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/registry"
)

// Notifications are taken of a registry that pushes do not pass through this server to. What they say
// is looked up in that registry: of an event only the repository and the tag are believed, or the
// digest of what has no tag, and neither before the registry says so, too.
type Notifications struct {
	Secret         func() (string, error) // what the registry sends as its Bearer token; read anew each time
	Pushed, Tagged registry.Watcher       // as a registry would call them
	Deleted        registry.DeleteWatcher
}

// Bounds of notifications.
const (
	maxNotificationBody = 1 << 20
	notificationTime    = time.Minute // for all events of a request: registries repeat what takes long
	maxNotifying        = 4           // requests at a time
)

// serveNotifications answers 204 when everything in the request is done. What could not be done now
// is an error, so that the registry sends it again: everything in it, and all may be done twice.
func (s *Server) serveNotifications(w http.ResponseWriter, r *http.Request) {
	events, err := s.readNotifications(w, r)
	if err != nil {
		writeError(w, r, err)
		return
	}
	select {
	case s.notifying <- struct{}{}:
		defer func() { <-s.notifying }()
	case <-r.Context().Done():
		writeError(w, r, r.Context().Err())
		return
	}
	// A registry waits for a second or so; what it repeats then should find this done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), notificationTime)
	defer cancel()
	for _, e := range events {
		outcome, err := s.notified(ctx, e)
		s.metrics.notifications.WithLabelValues(outcome).Inc()
		if err != nil {
			writeError(w, r, err)
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// readNotifications returns the events that are about manifests, each once.
func (s *Server) readNotifications(w http.ResponseWriter, r *http.Request) ([]api.Notification, error) {
	n := s.c.Notifications
	if n == nil {
		return nil, fmt.Errorf("%w: no notifications are taken here. hint: registry.notifications of the server's settings", errNotFound)
	}
	secret, err := n.Secret()
	if err != nil {
		return nil, err
	}
	if !isBearer(r.Header.Get("Authorization"), secret) {
		return nil, &access.Challenge{Header: []string{`Bearer realm="countersign notifications"`}, Reason: "the registry has to send the secret of registry.notifications as a Bearer token"}
	}
	body, err := readBody(w, r, maxNotificationBody)
	if err != nil {
		return nil, err
	}
	var sent api.Notifications
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, fmt.Errorf("%w: not the events of a registry: %v", errRequest, err)
	}
	if len(sent.Events) > api.MaxNotifications {
		return nil, fmt.Errorf("%w: %d events, at most %d are taken", errTooLarge, len(sent.Events), api.MaxNotifications)
	}
	seen := map[api.Notification]bool{}
	var events []api.Notification
	for _, e := range sent.Events {
		e, ok := relevant(e)
		if ok && !seen[e] {
			seen[e] = true
			events = append(events, e)
		}
	}
	return events, nil
}

// isBearer compares in a time that tells nothing of the secret.
func isBearer(authorization, secret string) bool {
	sent, ok := strings.CutPrefix(authorization, "Bearer ")
	a, b := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ok && secret != ""
}

// relevant keeps of an event what is looked at. Blobs have no tag and another media type.
func relevant(e api.Notification) (api.Notification, bool) {
	t := e.Target
	named, err := reference.WithName("h/" + t.Repository)
	if err != nil || reference.Path(named) != t.Repository || e.Action != "push" && e.Action != "delete" {
		return e, false
	}
	keep := api.NotificationTarget{Repository: t.Repository, Tag: t.Tag}
	if t.Tag != "" { // what it is by now is asked
		_, err = reference.WithTag(named, t.Tag)
	} else {
		keep.Digest = t.Digest
		_, err = digest.Parse(t.Digest)
	}
	manifest := t.Tag != "" || e.Action == "delete" && t.MediaType == "" || registry.IsManifest(t.MediaType)
	return api.Notification{Action: e.Action, Target: keep}, err == nil && manifest
}

// notified does what a push or deletion that passes through would. What nothing can be done about,
// as a repository that does not read, or an image that cannot be signed, is logged and done with.
func (s *Server) notified(ctx context.Context, e api.Notification) (outcome string, err error) {
	t := e.Target
	ref := t.Tag
	if ref == "" {
		ref = t.Digest
	}
	m, err := s.c.Registry.Manifest(ctx, t.Repository, ref)
	there := err == nil
	switch {
	case errors.Is(err, registry.ErrUnknown) && e.Action == "delete":
		outcome = "deleted"
		err = s.c.Notifications.Deleted(ctx, registry.Delete{Repository: t.Repository, Tag: t.Tag, Digest: digest.Digest(t.Digest)})
	case errors.Is(err, registry.ErrUnknown), there && e.Action == "delete":
		return "outdated", nil
	case there:
		outcome = "pushed"
		push := registry.Push{Repository: t.Repository, Tag: t.Tag, Manifest: m}
		for _, hook := range []registry.Watcher{s.c.Notifications.Pushed, s.c.Notifications.Tagged} {
			if err = hook(ctx, push); err != nil {
				break
			}
		}
	}
	if err == nil {
		return outcome, nil
	}
	s.c.Log.Warn("a notification came to nothing", "action", e.Action, "repository", t.Repository, "reference", ref, "error", err)
	if row := refusalOf(err); row.status < http.StatusInternalServerError && row.status != http.StatusTooManyRequests {
		return "refused", nil
	}
	return "failed", err
}
