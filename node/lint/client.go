package lint

import (
	"fmt"
	"regexp"
	"strconv"
)

// A Client is a version of containers/image, which podman, skopeo, buildah, CRI-O and OpenShift
// read their files with. Zero is any that is in use.
type Client struct{ Major, Minor int }

// The versions that read more than those before (protocol.md 0).
var (
	sinceLookaside = Client{5, 22} // and keyPaths of signedBy
	sinceFulcio    = Client{5, 24}
	sinceDatas     = Client{5, 33} // several keys of sigstoreSigned
	sincePKI       = Client{5, 35}
	sinceEdDSA     = Client{5, 42} // without gpgme
)

// Before tells whether the client is known to be older.
func (c Client) Before(other Client) bool {
	return c != Client{} && (c.Major < other.Major || c.Major == other.Major && c.Minor < other.Minor)
}

func (c Client) String() string { return fmt.Sprintf("containers/image %d.%d", c.Major, c.Minor) }

var clientNames = regexp.MustCompile(`^(?:(podman|skopeo)-)?([0-9]{1,3})\.([0-9]{1,4})(?:\.[0-9]{1,4})?$`)

// ParseClient reads 5.23, a version of containers/image, or that of a program: podman-4.3, skopeo-1.9.
func ParseClient(s string) (Client, error) {
	m := clientNames.FindStringSubmatch(s)
	if m == nil {
		return Client{}, fmt.Errorf("%q is no version; podman-4.3, skopeo-1.9 and 5.23, of containers/image, are", s)
	}
	major, _ := strconv.Atoi(m[2]) // digits, and few
	minor, _ := strconv.Atoi(m[3])
	c := Client{major, minor}
	if m[1] == "" {
		return c, nil
	}
	for _, r := range releases(m[1]) {
		if !c.Before(r.program) {
			return r.image, nil
		}
	}
	return Client{}, fmt.Errorf("%s is older than what is known here; name the version of containers/image", s)
}

type release struct{ program, image Client }

// releases says what programs are built with, by their go.mod, the newest first. Those between two
// have at least what the older has.
func releases(program string) []release {
	if program == "podman" {
		return []release{
			{Client{5, 6}, Client{5, 36}}, {Client{5, 4}, Client{5, 34}}, {Client{5, 2}, Client{5, 32}}, {Client{5, 0}, Client{5, 30}},
			{Client{4, 9}, Client{5, 29}}, {Client{4, 6}, Client{5, 26}}, {Client{4, 4}, Client{5, 24}}, {Client{4, 3}, Client{5, 23}},
			{Client{4, 2}, Client{5, 22}}, {Client{4, 1}, Client{5, 21}}, {Client{4, 0}, Client{5, 19}}, {Client{3, 4}, Client{5, 17}},
			{Client{3, 2}, Client{5, 12}},
		}
	}
	return []release{
		{Client{1, 14}, Client{5, 29}}, {Client{1, 13}, Client{5, 26}}, {Client{1, 12}, Client{5, 25}}, {Client{1, 9}, Client{5, 22}},
		{Client{1, 4}, Client{5, 15}}, {Client{1, 2}, Client{5, 10}},
	}
}
