package access

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign-dev/countersign/api"
)

// maxRefusal bounds what is read of a registry's error.
const maxRefusal = 64 << 10

// manifests are the media types of all that a registry may have under a digest: one that is asked
// for others says that it has none.
const manifests = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " +
	"application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
	"application/vnd.docker.distribution.manifest.v1+prettyjws, application/vnd.docker.distribution.manifest.v1+json"

// nothing is the digest of no manifest.
const nothing = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// A reply is what a registry said to a question, its error read.
type reply struct {
	status    int
	codes     []string // of its errors
	challenge []string
	exchanged bool
	problem   error // why no token was exchanged
}

func (r reply) has(code string) bool {
	for _, c := range r.codes {
		if c == code {
			return true
		}
	}
	return false
}

// probe asks the registry. An error: it does not say.
func (r *Registry) probe(ctx context.Context, q question) (verdict, error) {
	// One who makes it wait, with ever new credentials, leaves the others half of the room.
	share := r.shares.getOr(Bucket(q.address), func() chan struct{} { return make(chan struct{}, maxProbes/2) })
	for _, room := range []chan struct{}{share, r.probes} {
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		case <-ctx.Done():
			return verdict{}, errors.New("too many questions are waiting for the registry")
		}
	}
	switch {
	case q.repository == "":
		return r.ping(ctx, q)
	case q.action == Push:
		return r.mayPush(ctx, q)
	}
	return r.mayPull(ctx, q)
}

func (r *Registry) ping(ctx context.Context, q question) (verdict, error) {
	a, err := r.ask(ctx, q, http.MethodGet, "", "")
	if err == nil && a.status == http.StatusOK {
		return verdict{}, nil
	}
	return judged(a, err)
}

// mayPull asks for a manifest and reads no more than the header of the answer. Registries look at
// credentials before they look for a manifest, so that it is unknown says that one may ask. Some
// hide what somebody may not see behind another 404: then the credentials are good for nothing
// there, and the caller may what everybody may. Others have such a 404 for what they do not have,
// so that it is a no to this question only.
func (r *Registry) mayPull(ctx context.Context, q question) (verdict, error) {
	d := string(q.digest)
	if d == "" {
		d = nothing
	}
	a, err := r.ask(ctx, q, http.MethodGet, q.repository+"/manifests/"+d, "repository:"+q.repository+":pull")
	switch {
	case err == nil && (a.status == http.StatusOK || a.status == http.StatusNotFound && a.has(api.CodeManifestUnknown)):
		return verdict{}, nil
	case err != nil || a.status != http.StatusNotFound:
		return judged(a, err)
	case q.authorization != "":
		q.authorization = ""
		v, err := r.mayPull(ctx, q)
		v.anonymous, v.once = true, v.once || v.no != nil
		return v, err
	}
	// To anonymous callers nothing is there. If the registry knows others, they may tell who they are.
	hidden := fmt.Errorf("%w: the registry has no repository %s, or hides it", ErrForbidden, q.repository)
	v, err := r.ping(ctx, q)
	if v.once = true; v.no == nil {
		v.no = hidden
	}
	return v, err
}

// mayPush sends nothing to an upload that does not exist, which leaves nothing behind: only whom
// the registry lets push is told that there is no such upload.
func (r *Registry) mayPush(ctx context.Context, q question) (verdict, error) {
	a, err := r.ask(ctx, q, http.MethodPatch, q.repository+"/blobs/uploads/"+randomUUID(), "repository:"+q.repository+":pull,push")
	if err == nil && a.status >= 400 && a.status < 500 && (a.has("BLOB_UPLOAD_UNKNOWN") || a.has("BLOB_UPLOAD_INVALID")) {
		return verdict{}, nil
	}
	return judged(a, err)
}

// judged is what an answer means that is no yes. That a registry is too busy is not a no.
func judged(a reply, err error) (verdict, error) {
	switch {
	case err != nil:
		return verdict{}, err
	case a.status == http.StatusUnauthorized && !a.exchanged:
		c := &Challenge{Header: a.challenge, Reason: "the registry does not take these credentials, or wants some"}
		if a.problem != nil {
			c.Reason = a.problem.Error()
		}
		return verdict{no: c}, nil
	case a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests, a.status < 400, a.status >= 500:
		return verdict{}, fmt.Errorf("the registry answered %d", a.status)
	}
	return verdict{no: fmt.Errorf("%w by the registry", ErrForbidden)}, nil
}

// ask sends one request as the caller.
func (r *Registry) ask(ctx context.Context, q question, method, path, scope string) (reply, error) {
	request := (&http.Request{
		Method: method,
		URL:    &url.URL{Path: api.RegistryPrefix + path},
		Header: http.Header{"Accept": {manifests}, "User-Agent": {"countersign"}},
	}).WithContext(ctx)
	if host, _, err := net.SplitHostPort(q.address); err == nil {
		request.Header.Set("X-Forwarded-For", host) // for the registry's own count of failed logins
	}
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/octet-stream")
		request.Body = http.NoBody
	}
	answer, err := r.client.Do(request, q.authorization, scope)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	said := reply{status: answer.StatusCode, challenge: answer.Header.Values("Www-Authenticate"), exchanged: answer.Exchanged, problem: answer.Problem}
	if said.status < 400 {
		return said, nil // of a manifest nobody wants the bytes
	}
	var refused api.Errors
	// What does not read has no code.
	_ = json.NewDecoder(io.LimitReader(answer.Body, maxRefusal)).Decode(&refused)
	for _, e := range refused.Errors {
		said.codes = append(said.codes, e.Code)
	}
	return said, nil
}

func randomUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// nameIn is who an Authorization says it is of: a user name, or the subject of a token that is a
// JWT. The registry has verified it; what reads badly in a log has no name.
func nameIn(authorization string) string {
	name := ""
	scheme, value, _ := strings.Cut(authorization, " ")
	switch strings.ToLower(scheme) {
	case "basic":
		decoded, _ := base64.StdEncoding.DecodeString(value) // who sends other things has no name
		name, _, _ = strings.Cut(string(decoded), ":")
	case "bearer":
		if parts := strings.Split(value, "."); len(parts) == 3 {
			payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
			var claims struct {
				Subject string `json:"sub"`
			}
			_ = json.Unmarshal(payload, &claims)
			name = claims.Subject
		}
	}
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "unnamed"
	}
	return name
}
