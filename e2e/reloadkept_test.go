package e2e

import (
	"testing"
	"time"
)

// TestReloadKeepsIssuers changes the settings while an issuer is away: its keys are known, as before.
func TestReloadKeepsIssuers(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "")
	g.as(basic("job", g.issuer.token(t, time.Hour, "one", nil))).get(t, "/v2/").want(t, 200)
	g.issuer.leave()
	write(t, g.settings, read(t, g.settings)+"logLevel: debug\n")
	g.tells(t, "settings read again")
	g.as(basic("job", g.issuer.token(t, time.Hour, "one", nil))).get(t, "/v2/").want(t, 200)
}
