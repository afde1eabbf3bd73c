package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
)

// A route is one path of the main listener: what it takes, and what that asks of who comes.
// Handlers ask access themselves, since some find the repository only in the body; a test makes
// every case there is from this table and holds them to it, so a route is in it by being here.
type route struct {
	name    string // as logs and metrics name it
	path    string // what ends with * stands for all below it
	needs   []need
	handler http.HandlerFunc
}

// A need is what some methods of a route ask of access. Other methods are refused.
type need struct {
	methods []string
	in      access.Action // in one repository; "" where there is never one
	over    access.Action // for what belongs to no single repository; "" where there always is one
}

// anybody is the action of what nobody is asked for. It is no action of access: none grants it.
const anybody access.Action = "anybody"

var reading = []string{http.MethodGet, http.MethodHead}

func (s *Server) routes() []route {
	writing := []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete}
	ping := []need{{methods: reading, over: access.Pull}}
	registry := s.plain(s.serveRegistry)
	lookaside := []need{{methods: reading, in: access.Pull}, {methods: []string{http.MethodPut, http.MethodPost}, in: access.Push}}
	listing := []need{{methods: reading, in: access.Pull, over: access.Admin}}
	return []route{
		{routeRegistry, strings.TrimSuffix(api.RegistryPrefix, "/"), ping, registry},
		{routeRegistry, api.RegistryPrefix, ping, registry},
		{routeRegistry, api.RegistryPrefix + "_catalog", []need{{methods: reading, over: access.Admin}}, registry},
		{routeRegistry, api.RegistryPrefix + "*", []need{
			{methods: []string{http.MethodGet, http.MethodHead, http.MethodOptions}, in: access.Pull},
			{methods: writing, in: access.Push},
		}, registry},
		{routeExtension, api.ExtensionPrefix + "*", []need{
			{methods: reading, in: access.Pull}, {methods: []string{http.MethodPut}, in: access.Push},
		}, s.plain(s.serveExtension)},
		{routeLookaside, api.SigstorePrefix + "*", lookaside, s.plain(s.serveSigstore)},
		{routeLookaside, api.LookasidePrefix + "*", lookaside, s.plain(s.serveLookaside)},
		{routeVerify, api.VerifyPath, []need{{methods: []string{http.MethodPost}, in: access.Pull}}, s.serveVerify},
		{routeKeys, api.KeysPath, []need{{methods: reading, over: anybody}}, s.serveKeys},
		{routeKeys, api.KeysPath + "/*", []need{{methods: reading, over: anybody}}, s.serveKey},
		{routeNodeConfig, api.NodeConfigPath, []need{{methods: reading, over: anybody}}, s.serveNodeConfig},
		{routeSignatures, api.SignaturesPath, listing, answering(s.signatures)},
		{routeWithdrawals, api.WithdrawalsPath, append(listing, need{methods: []string{http.MethodPost}, in: access.Withdraw}), s.serveWithdrawals},
		{routeWithdrawals, api.WithdrawalsPath + "/*", []need{{methods: []string{http.MethodDelete}, in: access.Admin}}, s.serveWithdrawal},
		{routeAudit, api.AuditPath, []need{{methods: reading, over: access.Admin}}, answering(s.audit)},
		{routeNotify, api.NotificationsPath, []need{{methods: []string{http.MethodPost}, over: anybody}}, s.serveNotifications},
		{routeResign, api.ResignPath, []need{{methods: []string{http.MethodPost}, over: access.Admin}}, s.serveResign},
		{routeCalendar, api.CalendarPath, []need{{methods: reading, over: access.Admin}}, answering(s.calendar)},
		{routeImport, api.ImportPath, []need{{methods: []string{http.MethodPost}, over: access.Admin}}, s.serveImport},
		{routeExport, api.ExportPath, []need{{methods: reading, over: access.Admin}}, answering(s.export)},
		{routeSign, api.SignPath, []need{{methods: []string{http.MethodPost}, in: access.Sign}}, s.serveSign},
		{routeTags, api.TagsPath, []need{{methods: reading, in: access.Pull}}, answering(s.tags)},
		{routeTags, api.RepositoriesPath, []need{{methods: reading, over: access.Admin}}, answering(s.repositories)},
		{routeCoverage, api.CoveragePath, []need{{methods: reading, in: access.Pull}}, answering(s.coverage)},
		{routeQueue, api.QueuePath, []need{{methods: reading, over: access.Admin}}, answering(s.queue)},
		{routeQueue, api.QueuePath + "/*", []need{{methods: []string{http.MethodPost, http.MethodDelete}, over: access.Admin}}, s.serveTask},
	}
}

// answering handles what is asked and answered in JSON.
func answering[T any](answer func(*http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		said, err := answer(r)
		if err != nil {
			writeError(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, said)
	}
}

// Handler answers the main listener.
func (s *Server) Handler() http.Handler {
	routes := s.routes()
	handlers := make([]http.Handler, len(routes))
	router := chi.NewRouter()
	for i, route := range routes {
		handlers[i] = s.observed(route.name, s.guarded(route.taking()))
		router.Handle(route.path, handlers[i])
	}
	none := s.observed(routeNone, s.guarded(refusing(errNotFound)))
	router.NotFound(none.ServeHTTP)
	// A method that chi does not know is refused by the route it was sent to, as others are.
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		i := slices.IndexFunc(routes, func(t route) bool { return t.covers(r.URL.Path) })
		if i < 0 {
			none.ServeHTTP(w, r)
			return
		}
		handlers[i].ServeHTTP(w, r)
	})
	// What every pull asks has a route that no other has a part of: it is spared the router's bookkeeping.
	var often []int
	for i, route := range routes {
		if ofSignatures(route.path) || route.path == api.RegistryPrefix+"*" {
			often = append(often, i)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawPath == "" && Often(r.URL.Path) {
			for _, i := range often {
				if routes[i].covers(r.URL.Path) {
					handlers[i].ServeHTTP(w, r)
					return
				}
			}
		}
		router.ServeHTTP(w, r)
	})
}

func (t route) covers(path string) bool {
	below, all := strings.CutSuffix(t.path, "*")
	return all && strings.HasPrefix(path, below) || path == t.path
}

// taking refuses the methods that the route does not have.
func (t route) taking() http.Handler {
	var methods []string
	for _, n := range t.needs {
		methods = append(methods, n.methods...)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			writeError(w, r, errMethod)
			return
		}
		t.handler(w, r)
	})
}

// Often tells paths that every pull asks for: of lists, of signatures in lookasides, and of manifests. Their
// handlers do what package repeat asks of them.
func Often(path string) bool {
	return ofSignatures(path) || ofManifest(path)
}

// ofManifest tells paths of manifests. A repository's name may have a component that is called so, too.
func ofManifest(path string) bool {
	above := path[:strings.LastIndexByte(path, '/')+1]
	return strings.HasPrefix(above, api.RegistryPrefix) && strings.HasSuffix(above, "/manifests/")
}

func ofSignatures(path string) bool {
	return strings.HasPrefix(path, api.ExtensionPrefix) || strings.HasPrefix(path, api.SigstorePrefix) || strings.HasPrefix(path, api.LookasidePrefix)
}
