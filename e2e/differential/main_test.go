package differential

import (
	"flag"
	"os"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestMain(m *testing.M) {
	flag.Parse()
	logrus.SetLevel(logrus.FatalLevel) // the library logs what it does not implement
	// The same questions each time, unless others are asked for.
	defaults := map[string]string{"rapid.seed": "1", "rapid.checks": checks(), "rapid.nofailfile": "true"}
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// checks is how many policies are generated. gpg is a process each time.
func checks() string {
	switch {
	case library == gpgme && soak():
		return "2000"
	case library == gpgme:
		return "200"
	case soak():
		return "20000"
	}
	return "2000"
}
