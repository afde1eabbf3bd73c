package postgres

// For tests.

// MaxScanned is how much of a listing a page looks at.
const MaxScanned = maxScanned
