// Package differential compares what policy and signature decide with what clients decide: the
// library containers/image in both of its builds, and skopeo as distributions have it.
//
// It is a module of its own, so that what the library needs is nothing that Countersign needs.
// Run it with
//
//	cd e2e/differential && go test -tags containers_image_openpgp ./...
//
// The tag selects the library's build that verifies with Go code; the test then runs itself
// without the tag, against the build that verifies with gpgme, where libgpgme-dev is installed.
// COUNTERSIGN_SOAK=1 asks for ten times as many generated cases, -rapid.seed=N for others.
//
// Nothing may be accepted here that a client refuses, but for the exceptions of list_test.go;
// what is refused here and accepted by a client is on the list there, with the reason.
package differential
