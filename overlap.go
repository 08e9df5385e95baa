package main

import (
	"fmt"

	"github.com/rs/zerolog"
)

// An overlap is a lower of a share that another share changes: because the lower
// is, holds, or is in what that one keeps its changes in. Nothing forbids it, and
// who only wants to look at what others change may mean it. But whoever serves a
// lower counts on it to stay as it is (overlayfs.rst, "Changes to underlying
// filesystems").
type overlap struct {
	share   string // its path
	lower   int    // the topmost is 1
	changer string // the path of the share that changes it
	dir     string // where that one keeps its changes
}

// whatOverlapsMean is said of each.
const whatOverlapsMean = "what is changed there may show at once, late or in part"

// overlaps are those of the lowers of l with what other changes.
func (l *layers) overlaps(other *layers) (all []overlap) {
	for i, lower := range l.Lower {
		for _, dir := range other.changed() {
			if nested(lower, resolve(dir), true) {
				all = append(all, overlap{l.Path, i + 1, other.Path, dir})
				break
			}
		}
	}
	return all
}

// overlapsOf are those of every share with every other; a nil has none.
func overlapsOf(all []*layers) (found []overlap) {
	for i, l := range all {
		for j, other := range all {
			if i != j && l != nil && other != nil {
				found = append(found, l.overlaps(other)...)
			}
		}
	}
	return found
}

// String is an overlap in a sentence.
func (v overlap) String() string {
	return fmt.Sprintf("lower %d of share %s overlaps %s, which share %s changes: %s", v.lower, v.share, v.dir, v.changer, whatOverlapsMean)
}

// warnOfOverlaps tells of them in the log.
func (all shares) warnOfOverlaps(log zerolog.Logger) {
	every := make([]*layers, len(all))
	for i, s := range all {
		every[i] = s.layers
	}
	for _, v := range overlapsOf(every) {
		log.Warn().Str(keyShare, v.share).Str(keyLayer, layerName(v.lower)).Str(keyChanger, v.changer).
			Msg("a lower is changed by another share: " + whatOverlapsMean)
	}
}
