package overlay

// A Problem is something in a layer that is not as it should be.
type Problem struct {
	Layer int    // 0 is upper
	Path  string // within the layer
	What  string // what is wrong and what it does
}

// Check looks through the marks of upper and reports what no overlay writes.
func (fsys *FS) Check(report func(Problem)) error { return nil }
