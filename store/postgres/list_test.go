package postgres_test

import (
	"fmt"
	"testing"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// A page looks at so many rows and no more: it may be empty and still have a next. Where an index
// leads to what is wanted it is there at once.
func TestListLong(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	last := image("zzz")
	change := adding(last, 1)
	w := store.Withdrawal{ID: "w", Scope: store.ScopeKey, Key: "AB", Reason: "lost"}
	change.Withdraw, change.Then = []store.Withdrawal{w}, []store.Task{{Key: "zzz", Image: last}}
	do(t, s, change)
	const long = postgres.MaxScanned + 10
	psql(t, shared, name, fmt.Sprintf(`
		INSERT INTO signatures (host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content)
		SELECT 'registry.example', 'app' || n, 'sha256:00', 1, 'sha256:00@' || left(encode(sha256('x'), 'hex'), 32), '', '', '', '', false, '', '', now(), now(), 'x' FROM generate_series(1, %[1]d) n;
		INSERT INTO withdrawals (host, repository, digest, serial, id, scope, name, identity, key, reason, subject, time)
		SELECT 'registry.example', 'app' || n, 'sha256:00', 1, n, 'image', '', '', '', '', '', now() FROM generate_series(1, %[1]d) n;
		INSERT INTO tasks (key, kind, host, repository, digest, state, due, attempts, problem, queued, lease)
		SELECT n, 'sign', 'registry.example', 'app' || n, 'sha256:00', 'dead', now(), 0, '', now(), '' FROM generate_series(1, %[1]d) n;
		ANALYZE`, long))
	digest := string(last.Digest)
	for f, want := range map[store.Filter]int{
		{Kind: store.Signatures, Digest: digest}:                                        2,
		{Kind: store.Signatures, Host: last.Host, Digest: digest}:                       2,
		{Kind: store.Signatures, Repository: "zzz"}:                                     2,
		{Kind: store.Withdrawals, Key: "AB"}:                                            2,
		{Kind: store.Withdrawals, Digest: digest, Key: "AB"}:                            2,
		{Kind: store.Tasks, State: store.Queued}:                                        2,
		{Kind: store.Tasks, Repository: "zzz"}:                                          2,
		{Kind: store.Signatures, Key: signature(last, 1).Fingerprint}:                   1,
		{Kind: store.Signatures, Host: last.Host, Repository: "zzz"}:                    1,
		{Kind: store.Withdrawals, Host: last.Host, Repository: "zzz", Digest: digest}:   1,
		{Kind: store.Signatures, Host: last.Host, Repository: "zzz", Digest: "another"}: 1,
	} {
		found, pages := 0, 0
		for after := store.Cursor(""); pages == 0 || after != ""; pages++ {
			page, next, err := s.List(t.Context(), f, after, 1000)
			if err != nil {
				t.Fatalf("List %+v, page %d: %v", f, pages+1, err)
			}
			if len(page) > 0 && page[0].Image != last {
				t.Errorf("List %+v has %s", f, page[0].Image)
			}
			found, after = found+len(page), next
		}
		if wantFound := map[bool]int{true: 0, false: 1}[f.Digest == "another"]; found != wantFound || pages != want {
			t.Errorf("List %+v: %d entries on %d pages, want %d on %d", f, found, pages, wantFound, want)
		}
	}
}
