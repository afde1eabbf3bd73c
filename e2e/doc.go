// Package e2e drives the built binary with what nodes and people really use: skopeo, podman,
// gpg, curl, strace, and plain HTTP where every byte matters. It imports nothing of ours, so
// what it asserts is the contract and not the code.
//
// TestMain builds the binary once, with the race detector when the tests have it. Each test
// starts its own server on free ports in a fresh directory; at its end the server gets SIGTERM,
// must exit 0, and must not have logged a panic or a data race.
//
// A missing program is a skip that says how to install it, and a failure where CI=true.
// COUNTERSIGN_SOAK=1 runs the full counts. The fixtures under testdata/transcripts are
// conversations of real clients: see transcripts_test.go.
package e2e
