// Package schemas checks what Countersign makes for clusters with the clusters' own types and
// checks: OpenShift's MachineConfig and its Ignition, Kubernetes' objects and pod security.
//
// It is a module of its own, so that what these need is nothing that Countersign needs. Run it with
//
//	cd e2e/schemas && go test ./...
package schemas
