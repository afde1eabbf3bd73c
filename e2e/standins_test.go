package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// What deploy/ takes from registries and nobody pulls here: stand-ins of the same names, made of what
// this machine has, that are started, configured and asked as the real ones are.
const (
	registryImage = "docker.io/library/registry:3"
	postgresImage = "docker.io/library/postgres:17"
)

// standins is an archive of both, for podman load.
var standins = sync.OnceValues(func() (string, error) {
	archive := filepath.Join(built.dir, "standins.tar")
	b := builder{dir: filepath.Join(built.dir, "standins")}
	if err := b.configure(); err != nil {
		return "", err
	}
	if err := b.run(`mkdir registry; cp ` + built.registry + ` registry/registry; c=$(buildah from scratch); buildah add -q "$c" registry / >/dev/null
		buildah config --entrypoint '["/registry"]' "$c"; buildah commit -q --rm "$c" ` + registryImage + ` >/dev/null`); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "entrypoint"), []byte(postgresEntrypoint), 0o755); err != nil {
		return "", err
	}
	if err := b.run(fmt.Sprintf(postgresScript, postgresImage)); err != nil {
		return "", err
	}
	return archive, b.run(fmt.Sprintf("podman save -q -m -o %s %s %s", archive, registryImage, postgresImage))
})

// postgresEntrypoint does what the real one does with what deploy/ gives it.
const postgresEntrypoint = `#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -A scram-sha-256 -E UTF8 --no-locale --no-sync --no-instructions
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -k /tmp -c listen_addresses='*' -c shared_buffers=16MB -c dynamic_shared_memory_type=mmap
`

// postgresScript puts the latest PostgreSQL of Debian where it was built to be, with what it links to.
const postgresScript = `root=$PWD/postgres; at=$(ls -d /usr/lib/postgresql/*/ | sort -V | tail -1)
	mkdir -p "$root"/{bin,usr/bin,usr/share/postgresql,etc,proc,sys,dev,run} "$root$at/lib"; mkdir -m 1777 "$root/tmp"; mkdir -p "$root/var/lib/postgresql/data"
	cp "$(command -v busybox)" "$root/bin/busybox"; for applet in sh cat echo locale; do ln -s busybox "$root/bin/$applet"; done
	cp entrypoint "$root/"
	mkdir -p "$root$at/bin"; cp "$at"/bin/{postgres,initdb,pg_isready} "$root$at/bin/"
	for library in "$at"/lib/*.so; do case $library in *llvmjit*) ;; *) cp "$library" "$root$library" ;; esac; done
	cp -r "/usr/share/postgresql/$(basename "$at")" "$root/usr/share/postgresql/"; cp -r /usr/share/zoneinfo "$root/usr/share/"
	ldd "$at"/bin/{postgres,initdb,pg_isready} "$root$at"/lib/{plpgsql,dict_snowball,libpqwalreceiver}.so | grep -o '/[^ ]*' | grep -v ':$' | sort -u | while read -r library; do mkdir -p "$root${library%%/*}"; cp -L "$library" "$root$library"; done
	echo postgres:x:999:0::/var/lib/postgresql:/bin/sh >"$root/etc/passwd"
	chmod 777 "$root/var/lib/postgresql/data"
	c=$(buildah from scratch); buildah add -q "$c" "$root" / >/dev/null
	buildah config --user 999:0 --env PGDATA=/var/lib/postgresql/data/cluster --env PATH="${at}bin:/bin" --entrypoint '["/entrypoint"]' "$c"
	buildah commit -q --rm "$c" %s >/dev/null; rm -rf "$root"`

// equipped is a node that has all images that deploy/ names.
func equipped(t *testing.T) *node {
	t.Helper()
	if found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); err != nil || len(found) == 0 {
		lack(t, "PostgreSQL is not installed as Debian does it: apt-get install postgresql")
	}
	n := loaded(t)
	archive, err := standins()
	if err != nil {
		t.Fatal(err)
	}
	works(t)(n.podman(t, "load", "-q", "-i", archive))
	return n
}
