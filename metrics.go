package main

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"overdav/auth"
)

// MetricsConfig says who may read the metrics. Without either nobody may, and
// nothing is counted.
type MetricsConfig struct {
	Listen string   `yaml:"listen"` // an address of its own, for everybody who can reach it
	Users  []string `yaml:"users"`  // at /.overdav/metrics
}

func (m *MetricsConfig) on() bool { return m.Listen != "" || len(m.Users) > 0 }

func (m *MetricsConfig) check(prefix string, authenticates bool, report func(key, format string, args ...any)) {
	if m.Listen != "" {
		if _, err := net.ResolveTCPAddr("tcp", m.Listen); err != nil {
			report(prefix+"listen", "%q is not an address; write host:port, as in 127.0.0.1:9180", m.Listen)
		}
	}
	if len(m.Users) > 0 && !authenticates {
		report(prefix+"users", "there are no users; name some, or read the metrics at metrics.listen")
	}
}

// metrics counts what happens, for Prometheus. Labels are of small fixed sets and
// of the shares: never a path, a user or an address of a request.
type metrics struct {
	registry *prometheus.Registry

	// requests are histograms of durations, by what a request does and how its
	// answer begins; made at the start, so that counting looks nothing up.
	requests       [len(requestClasses)][6]prometheus.Observer
	sent, received prometheus.Counter

	copyUps, copyUpBytes, copyUpNanos atomic.Int64
}

// requestClasses are what requests do.
var requestClasses = [...]struct{ name, methods string }{
	{"read", "GET HEAD"},
	{"list", "PROPFIND OPTIONS"},
	{"write", "PUT PATCH MKCOL PROPPATCH"},
	{"move", "COPY MOVE"},
	{"delete", "DELETE"},
	{"lock", "LOCK UNLOCK"},
	{"other", ""}, // last: all that is no other's
}

// classOf is the place of a method's class.
func classOf(method string) int {
	for i, class := range requestClasses {
		for word := range strings.SplitSeq(class.methods, " ") {
			if word == method {
				return i
			}
		}
	}
	return len(requestClasses) - 1
}

// Buckets are wide: a histogram has one for each of its labels, and who asks wants
// to know whether it was milliseconds or seconds.
var durationBuckets = []float64{.001, .005, .025, .1, .5, 2.5, 10, 60}

func newMetrics(c MetricsConfig) *metrics {
	if !c.on() {
		return nil
	}
	m := &metrics{registry: prometheus.NewRegistry()}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "overdav_request_duration_seconds", Help: "Time from the header of a request to the end of its answer.", Buckets: durationBuckets,
	}, []string{"op", "status"})
	m.registry.MustRegister(durations)
	for i, class := range requestClasses {
		for status := 1; status <= 5; status++ {
			m.requests[i][status] = durations.WithLabelValues(class.name, strconv.Itoa(status)+"xx")
		}
	}
	m.sent = prometheus.NewCounter(prometheus.CounterOpts{Name: "overdav_response_body_bytes_total", Help: "Bytes of answers' bodies."})
	m.received = prometheus.NewCounter(prometheus.CounterOpts{Name: "overdav_request_body_bytes_total", Help: "Bytes of requests' bodies."})
	m.registry.MustRegister(m.sent, m.received)
	m.count("overdav_copyups_total", "Files of lowers that were copied up.", func() float64 { return float64(m.copyUps.Load()) })
	m.count("overdav_copyup_bytes_total", "Bytes of files that were copied up.", func() float64 { return float64(m.copyUpBytes.Load()) })
	m.count("overdav_copyup_seconds_total", "Time that copying up took.", func() float64 { return time.Duration(m.copyUpNanos.Load()).Seconds() })
	m.gauge("overdav_info", "What the program was built from.", func() float64 { return 1 }, "version", buildVersion())
	return m
}

// count and gauge register a number that is asked for when somebody reads.
// labels are pairs.
func (m *metrics) count(name, help string, value func() float64, labels ...string) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: pairs(labels)}, value))
}

func (m *metrics) gauge(name, help string, value func() float64, labels ...string) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: pairs(labels)}, value))
}

func pairs(labels []string) prometheus.Labels {
	all := make(prometheus.Labels)
	for pair := range slices.Chunk(labels, 2) {
		all[pair[0]] = pair[1]
	}
	return all
}

// note counts a request that has ended.
func (m *metrics) note(rec *record) {
	if m == nil {
		return
	}
	m.sent.Add(float64(rec.sent))
	m.received.Add(float64(rec.received))
	if status := rec.status / 100; status >= 1 && status <= 5 {
		m.requests[classOf(rec.method)][status].Observe(time.Since(rec.began).Seconds())
	}
}

// copiedUp counts a copy-up.
func (m *metrics) copiedUp(bytes int64, took time.Duration) {
	if m == nil {
		return
	}
	m.copyUps.Add(1)
	m.copyUpBytes.Add(bytes)
	m.copyUpNanos.Add(int64(took))
}

// start adds what the parts of the server tell of themselves, and lets those read
// the metrics who may, until stop is called.
func (m *metrics) start(c MetricsConfig, s *server, rt *router, log zerolog.Logger) (stop func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	m.watch(s.conns, rt.shares, s.health, rt.door.authenticator)
	if len(c.Users) > 0 {
		rt.own.Handle("GET "+ownPath+"/metrics", m.forUsers(c.Users, log))
	}
	if c.Listen == "" {
		return func() {}, nil
	}
	return m.serve(c.Listen, log)
}

func (m *metrics) watch(conns *connLimit, all shares, h *health, a *auth.Authenticator) {
	m.gauge("overdav_connections", "Open connections.", func() float64 { return float64(conns.count()) })
	m.count("overdav_connections_refused_total", "Connections beyond the limits.", func() float64 { return float64(conns.refused.Load()) })
	m.count("overdav_passwords_hashed_total", "Passwords that were verified against a hash.", func() float64 { return float64(a.Hashed()) })
	m.gauge("overdav_passwords_waiting", "Passwords that wait to be verified.", func() float64 { return float64(a.Waiting()) })
	m.gauge("overdav_passwords_hashing", "Passwords that are being verified.", func() float64 { return float64(a.Hashing()) })
	m.count("overdav_passwords_refused_total", "Passwords that found the queue full, and were answered 503.", func() float64 { return float64(a.Unhashed()) })
	for _, s := range all {
		m.watchShare(s)
	}
	for _, p := range h.probes {
		m.gauge("overdav_layer_up", "Whether a layer answered when it was last asked.", func() float64 { return p.up() },
			"share", p.share, "layer", p.layer)
	}
}

func (m *metrics) watchShare(s *share) {
	gauge := func(name, help string, value func() float64) { m.gauge(name, help, value, "share", s.layers.Path) }
	gauge("overdav_operations", "Requests that use the disks of a share.", func() float64 { return float64(len(s.gate.places)) })
	m.count("overdav_operations_refused_total", "Requests that found no place at the disks of a share.",
		func() float64 { return float64(s.gate.refused.Load()) }, "share", s.layers.Path)
	m.count("overdav_errors_total", "Requests that failed by the server's fault, its layers' above all.",
		func() float64 { return float64(s.errors.Load()) }, "share", s.layers.Path)
	gauge("overdav_locks", "Locks of clients.", func() float64 { return float64(s.countLocks()) })
	if s.layers.Quota > 0 && !s.layers.readOnly() {
		gauge("overdav_upper_used_bytes", "What changes take in the uppers that are open, as the quota counts it.", func() float64 { return float64(s.used()) })
	}
	if s.layers.perUser() {
		gauge("overdav_uppers_open", "Users' uppers that are open.", func() float64 { return float64(len(s.trees.openTrees())) })
	}
	if s.layers.Upper != "" {
		gauge("overdav_upper_bytes", "Size of the file system that upper is on.", func() float64 { total, _ := s.space(); return total })
		gauge("overdav_upper_available_bytes", "What is left of it.", func() float64 { _, available := s.space(); return available })
	}
}

// handler writes the metrics for who may read them.
func (m *metrics) handler(log zerolog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: stdLogger(log), ErrorHandling: promhttp.HTTPErrorOnError, EnableOpenMetrics: true, DisableCompression: true, MaxRequestsInFlight: 4,
	})
}

// forUsers is the handler at ownPath: for the others, and for tokens that are good
// for a share or a path, there is nothing there.
func (m *metrics) forUsers(users []string, log zerolog.Logger) http.Handler {
	h := m.handler(log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := auth.From(r.Context())
		ofPart := id.Scope != nil && (len(id.Scope.Shares) > 0 || id.Scope.Path != "") // and the metrics are of the server
		if id.IsAnonymous() || ofPart || !slices.Contains(users, id.Name) {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// serve serves the metrics at an address of their own until stop is called.
func (m *metrics) serve(addr string, log zerolog.Logger) (stop func(), err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &hintError{err, "metrics.listen names an address that is free"}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.handler(log))
	return serveBeside(ln, &http.Server{Handler: mux}, "metrics", log), nil // who reads them comes again
}
