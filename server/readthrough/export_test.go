package readthrough

// Known is how many images are remembered.
func (l *Lookasides) Known() int {
	l.known.mu.Lock()
	defer l.known.mu.Unlock()
	return len(l.known.until)
}
