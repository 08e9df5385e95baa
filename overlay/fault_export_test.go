package overlay

// Crash leaves fsys as the end of its process would: its lock is gone, its
// guard and whatever is in staging stay. Nothing may use it any more.
func Crash(fsys *FS) {
	fsys.treeMu.Lock()
	defer fsys.treeMu.Unlock()
	fsys.closed = true
	fsys.staging.purges.Wait()
	close(fsys.staging.purge)
	fsys.staging.close()
	fsys.work.Close()
	_ = fsys.tags.close() // the end of a process closes and says nothing
	_ = fsys.unlock()
	if fsys.cache != nil {
		fsys.cache.close()
	}
	fsys.root.closeLayers()
}

// Drain waits until nothing is being deleted in the background.
func Drain(fsys *FS) { fsys.staging.purges.Wait() }

// TakeLookerPlaces takes all places of those who look for others, until free is
// called.
func TakeLookerPlaces() (free func()) {
	for range cap(lookerPlaces) {
		lookerPlaces <- struct{}{}
	}
	return func() {
		for range cap(lookerPlaces) {
			<-lookerPlaces
		}
	}
}
