package api

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Prefixes of what the main listener serves.
const (
	RegistryPrefix  = "/v2/"
	ExtensionPrefix = "/extensions/v2/"
	SigstorePrefix  = "/sigstore/"  // the lookaside of the server's own host
	LookasidePrefix = "/lookaside/" // the lookaside of any host: its name is the first segment
)

// ErrPath is what a path that belongs to neither protocol wraps.
var ErrPath = errors.New("no such path")

// MaxIndex is the last index that every client reads (protocol.md 1.3).
const MaxIndex = 127

// maxIndex bounds an index in a path.
const maxIndex = 9999

// ExtensionPath returns /extensions/v2/<repository>/signatures/<digest> (protocol.md 3.2).
func ExtensionPath(i Image) string {
	return ExtensionPrefix + i.Repository + "/signatures/" + string(i.Digest)
}

// ParseExtensionPath is the inverse of ExtensionPath, for an image of the given host. It reads
// from the right, because "signatures" may itself be a segment of the repository.
func ParseExtensionPath(host, path string) (Image, error) {
	rest, ok := strings.CutPrefix(path, ExtensionPrefix)
	if !ok {
		return Image{}, fmt.Errorf("%w: %s<repository>/signatures/<digest> is wanted", ErrPath, ExtensionPrefix)
	}
	rest, d, ok := cutLast(rest, "/")
	repository, isList := strings.CutSuffix(rest, "/signatures")
	if !ok || !isList {
		return Image{}, fmt.Errorf("%w: %s<repository>/signatures/<digest> is wanted", ErrPath, ExtensionPrefix)
	}
	return NewImage(host, repository, d)
}

// SignatureName is what the lookaside calls the signature of this index, from 1.
func SignatureName(index int) string { return "signature-" + strconv.Itoa(index) }

// LookasidePath returns <repository>@sha256=<hex>, the image's directory below a lookaside's
// base URL (protocol.md 1.1).
func LookasidePath(i Image) string {
	return i.Repository + "@" + i.Digest.Algorithm().String() + "=" + i.Digest.Encoded()
}

// ParseLookasidePath is the inverse of LookasidePath + "/" + SignatureName(index), for an image
// of the given host. Index 0: the path ends with the image, as POST wants it. Repeated
// slashes in front count for nothing: clients send one too many when the base ends with one.
func ParseLookasidePath(host, path string) (i Image, index int, err error) {
	path = strings.TrimLeft(path, "/")
	at := strings.LastIndexByte(path, '@')
	if at < 0 {
		return Image{}, 0, fmt.Errorf("%w: <repository>@sha256=<hex>/signature-<n> is wanted", ErrPath)
	}
	repository, rest := path[:at], path[at+1:]
	if dir, name, ok := strings.Cut(rest, "/"); ok {
		if index, err = parseSignatureName(strings.TrimLeft(name, "/")); err != nil {
			return Image{}, 0, err
		}
		rest = dir
	}
	algorithm, hex, ok := strings.Cut(rest, "=")
	if !ok {
		return Image{}, 0, fmt.Errorf("%w %q: sha256=<hex> is wanted", ErrDigest, rest)
	}
	i, err = NewImage(host, repository, algorithm+":"+hex)
	return i, index, err
}

// MaxRelease is the last index that readers of releases ask for (protocol.md 1.7).
const MaxRelease = 9

// ReleasePath returns sha256=<hex>, where signatures of a release are below a lookaside's base URL.
func ReleasePath(d digest.Digest) string { return d.Algorithm().String() + "=" + d.Encoded() }

// ParseReleasePath reads ReleasePath + "/" + SignatureName(index), for an image of this repository.
func ParseReleasePath(host, repository, path string) (i Image, index int, err error) {
	i, index, err = ParseLookasidePath(host, repository+"@"+strings.TrimLeft(path, "/"))
	if err == nil && index == 0 {
		err = fmt.Errorf("%w: sha256=<hex>/signature-<n> is wanted", ErrPath)
	}
	return i, index, err
}

// ParseHostPath splits <host>/<rest>, the path below LookasidePrefix.
func ParseHostPath(path string) (host, rest string, err error) {
	host, rest, ok := strings.Cut(strings.TrimLeft(path, "/"), "/")
	if !ok || host == "" {
		return "", "", fmt.Errorf("%w: %s<host>/<repository>@sha256=<hex>/signature-<n> is wanted", ErrPath, LookasidePrefix)
	}
	return host, rest, nil
}

func parseSignatureName(name string) (int, error) {
	digits, ok := strings.CutPrefix(name, "signature-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || n > maxIndex || SignatureName(n) != name {
		return 0, fmt.Errorf("%w: %q is not signature-<n>, n from 1", ErrPath, name)
	}
	return n, nil
}

// Plain reports whether a path means the same decoded and as it was sent, so that nobody on
// the way can take it for another. Of escapes it tolerates those of the characters that both
// protocols use and some clients encode: @ = and the colon (protocol.md 1.1).
func Plain(decoded, escaped string) bool {
	if strings.Contains(escaped, "%") {
		escaped = escapes.Replace(escaped)
	}
	if decoded != escaped {
		return false
	}
	for segment := range strings.SplitSeq(decoded, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

var escapes = strings.NewReplacer("%40", "@", "%3D", "=", "%3d", "=", "%3A", ":", "%3a", ":")

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
