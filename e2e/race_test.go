//go:build race

package e2e

// raceFlag makes the binary under test a race detector when the tests are one.
const raceFlag = "-race"
