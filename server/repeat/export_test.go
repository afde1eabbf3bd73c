package repeat

import "time"

// Look is how long a client may have gone before its request ends.
func (l *Listener) Look(every time.Duration) { l.look = every }
