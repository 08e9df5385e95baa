package main

import (
	"net/http"

	"github.com/rs/zerolog"

	"overdav/overlay"
)

// newHandler is what answers requests.
func newHandler(fsys *overlay.FS, log zerolog.Logger) http.Handler {
	return http.NotFoundHandler()
}
