package access

import "regexp"

// subjectGrammar is what may stand in a subject: printable ASCII without spaces.
var subjectGrammar = regexp.MustCompile(`\A[!-~]{1,256}\z`)
