package api

import "github.com/opencontainers/go-digest"

// Paths of what the registry has, and what nodes would make of it.
const (
	CoveragePath     = "/api/v1/coverage"
	RepositoriesPath = "/api/v1/repositories"
)

// A CoveragePage says of tags of a repository whether nodes of a profile accept them. Next goes on behind it;
// it is empty at the end. A page may have no tag and still a Next.
type CoveragePage struct {
	Repository string        `json:"repository"` // with its host
	Profile    string        `json:"profile"`
	Tags       []TagCoverage `json:"tags"`
	Next       string        `json:"next,omitempty"`
}

// A TagCoverage is accepted if every manifest is that a node could choose.
type TagCoverage struct {
	Tag      string             `json:"tag"`
	Digest   digest.Digest      `json:"digest"`
	Accepted bool               `json:"accepted"`
	Rejected []RejectedManifest `json:"rejected,omitempty"`
	Advice   string             `json:"advice,omitempty"` // one line: what to do
}

// A RejectedManifest is an image, or one architecture's of a list.
type RejectedManifest struct {
	Digest   digest.Digest `json:"digest"`
	Platform string        `json:"platform,omitempty"` // os/architecture[/variant] of an instance
	Scope    string        `json:"scope,omitempty"`    // of the policy
	Reasons  []string      `json:"reasons"`            // of each requirement that is not met
}

// A RepositoryPage lists repositories of the registry, without their host.
type RepositoryPage struct {
	Repositories []string `json:"repositories"`
	Next         string   `json:"next,omitempty"`
}
