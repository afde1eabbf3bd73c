package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// welcome tells a person at a terminal what comes next, in commands to paste.
func (h *house) welcome(w io.Writer, s settings) {
	public, err := filepath.Abs(keyIn(s.Data).public)
	if err != nil {
		public = keyIn(s.Data).public
	}
	v := struct {
		Address, Fingerprint, UserID, Key, Quoted, Trusted, Debug string
		Made                                                      bool
	}{
		Address: s.Hosts[0], Key: public, Quoted: quoted(public), Trusted: s.Admission.Trusted, Made: h.made,
	}
	if h.signer == nil && len(h.keys) > 0 {
		fmt.Fprintf(w, "\nCountersign serves %s. It signs with %s, as signing.rules say.\n\n", v.Address, strings.Join(slices.Sorted(maps.Keys(h.keys)), ", "))
		return
	}
	if h.signer == nil {
		fmt.Fprintf(w, "\nCountersign serves %s. It signs nothing: it has no key, see the log.\n\n", v.Address)
		return
	}
	key := h.signer.Key().Keys()[0]
	v.Fingerprint, v.UserID = key.Fingerprint, key.UserID
	if err := welcomeText.Execute(w, v); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// quoted is a string as JSON within single quotes of a shell.
func quoted(s string) string {
	return strings.ReplaceAll(fmt.Sprintf("%q", s), "'", `'\''`)
}

var welcomeText = template.Must(template.New("").Parse(`
Countersign serves images and their signatures at {{.Address}}
and signs with {{if .Made}}a new{{else}}the{{end}} key {{.Fingerprint}}, {{.UserID}}.

Push an image; it is signed as {{.Address}}/ns/app:v1:

  skopeo copy --dest-tls-verify=false docker://docker.io/library/busybox docker://{{.Address}}/ns/app:v1

Let a node verify it. This policy accepts what that key signed, and nothing else:

  echo '{"default":[{"type":"reject"}],"transports":{"docker":{"{{.Address}}":[{"type":"signedBy","keyType":"GPGKeys","keyPath":{{.Quoted}}}]}}}' >policy.json
  skopeo --policy policy.json copy --src-tls-verify=false docker://{{.Address}}/ns/app:v1 dir:app

Trust somebody who signs (skopeo copy --sign-by KEY, podman push --sign-by KEY):

  gpg --armor --export KEY >{{.Trusted}}/somebody.asc

`))
