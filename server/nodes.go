package server

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/signature"
)

// serveNodeConfig answers the files that nodes of a profile need. Everybody may ask: what is in
// them is on every node.
func (s *Server) serveNodeConfig(w http.ResponseWriter, r *http.Request) {
	content, mediaType, err := s.nodeConfig(r.URL.Query())
	if err != nil {
		writeError(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", "no-cache")
	if mediaType == "application/x-tar" {
		h.Set("Content-Disposition", `attachment; filename="containers.tar"`)
	}
	_, _ = w.Write(content) // the client is gone: nobody is left to tell
}

func (s *Server) nodeConfig(query url.Values) (content []byte, mediaType string, err error) {
	at := node.DefaultPlacing()
	at.Image = s.c.Hosts[0] + "/countersign:latest"
	format, options := string(node.Tar), node.Options{}
	known := map[string]*string{
		"profile": &options.Profile, "format": &format, "prefix": &options.Prefix,
		"role": &at.Role, "namespace": &at.Namespace, "image": &at.Image,
	}
	for name, values := range query {
		if known[name] == nil || len(values) != 1 {
			return nil, "", fmt.Errorf("%w: %q, once, is none of %s", errRequest, name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		*known[name] = values[0]
	}
	p, profile, err := s.policyOf(api.VerifyRequest{Profile: options.Profile})
	if err != nil {
		return nil, "", err
	}
	options.Profile = profile
	if s.c.NodeLookasides != nil {
		options.Lookasides = s.c.NodeLookasides()
	}
	if s.c.Advertise {
		options.Hosts = s.c.Hosts
	}
	c, err := node.Make(p, options)
	if err == nil {
		content, mediaType, err = c.Render(node.Format(format), at)
	}
	if err != nil && !errors.Is(err, node.ErrNoKey) {
		err = fmt.Errorf("%w: %v", errRequest, err)
	}
	return content, mediaType, err
}

// serveKeys answers all public keys: armored in one block, since some clients read only the
// first, or as a list to who accepts JSON.
func (s *Server) serveKeys(w http.ResponseWriter, r *http.Request) {
	all, list := s.keys()
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, http.StatusOK, list)
		return
	}
	writeArmored(w, all)
}

// serveKey answers one key.
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request) {
	all, _ := s.keys()
	fingerprint := strings.ToUpper(strings.TrimPrefix(r.URL.Path, api.KeysPath+"/"))
	if !all.Has(fingerprint) {
		writeError(w, r, fmt.Errorf("%w: no node policy names a key %.100q", errNotFound, fingerprint))
		return
	}
	writeArmored(w, all.Only(fingerprint))
}

// keys are those that the server signs with, and those that node policies name.
func (s *Server) keys() (*signature.Keyring, api.Keys) {
	own := signature.Join()
	if s.c.Keys != nil {
		own = s.c.Keys()
	}
	rings := []*signature.Keyring{own}
	profiles := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(s.c.Profiles)) {
		ring := s.c.Profiles[name]().Keyring()
		rings = append(rings, ring)
		for _, k := range ring.Keys() {
			profiles[k.Fingerprint] = append(profiles[k.Fingerprint], name)
		}
	}
	all := signature.Join(rings...)
	list := api.Keys{Keys: []api.Key{}}
	for _, k := range all.Keys() {
		list.Keys = append(list.Keys, api.Key{
			Fingerprint: k.Fingerprint, UserID: k.UserID, Algorithm: k.Algorithm, Created: k.Created,
			Own: own.Has(k.Fingerprint), Profiles: profiles[k.Fingerprint],
		})
	}
	return all, list
}

func writeArmored(w http.ResponseWriter, ring *signature.Keyring) {
	w.Header().Set("Content-Type", "application/pgp-keys")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(ring.Armored()) // the client is gone: nobody is left to tell
}
