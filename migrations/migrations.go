// Package migrations is the database's schema, as golang-migrate reads it: NNNNNN_name.up.sql
// brings it from one number to the next, .down.sql back.
//
// A migration only adds: what an older program wrote and reads stays where it is, so that replicas
// are replaced one by one. One that must take something away comes at least a release later, and
// says so in schema_compatibility.oldest. The second did not wait: there had been no release.
package migrations

import "embed"

//go:embed *.sql
var files embed.FS

// Files are the migrations.
func Files() embed.FS { return files }
