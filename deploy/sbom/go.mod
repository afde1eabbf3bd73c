// What writes the bill of materials of a release: apart, so that the server does not depend on it.
module github.com/countersign-dev/countersign/deploy/sbom

go 1.26.0

require github.com/CycloneDX/cyclonedx-go v0.12.0
